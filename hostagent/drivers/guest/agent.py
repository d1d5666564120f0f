"""What a host may ask of a guest that helps: the same questions whatever answers them.

Nothing that a guest says is believed further than it has to be: answers are bounded in size and time, and checked.
"""

from __future__ import annotations

from typing import Final, Protocol

from pydantic import Field

from vdc.model.base import Record
from vdc.model.guest import GuestInterface

KILLED: Final = 128  # a program that a signal ended has this and its number, as shells say it


class GuestCommand(Record):
    """A program to be run in the guest, to its end."""

    argv: tuple[str, ...] = Field(min_length=1)
    env: tuple[str, ...] = ()  # NAME=VALUE; empty: the agent's own environment
    stdin: bytes = b""


class CommandResult(Record):
    """How it ended. `is_cut`: it wrote more than the agent in the guest keeps."""

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""
    is_cut: bool = False


class GuestAgent(Protocol):
    """Every method raises GuestGoneError where nobody answers sensibly, GuestRefusedError where the answer is no."""

    async def ping(self) -> None:
        """Return when the guest answers."""
        ...

    async def interfaces(self) -> tuple[GuestInterface, ...]:
        """The guest's interfaces with their addresses, without the loopback."""
        ...

    async def shut_down(self) -> None:
        """Let the guest begin to shut itself down."""
        ...

    async def execute(self, command: GuestCommand, *, deadline_s: float) -> CommandResult:
        """Run a program and wait until it has ended; at the deadline it goes on, and nobody waits for it."""
        ...

    async def freeze(self) -> int:
        """Let its file systems write out everything and then stand still; says how many. `thaw` must follow."""
        ...

    async def thaw(self) -> int:
        """Let them go on; says how many."""
        ...
