"""What travels over the websocket of `endophyte_exec`, beside the command, which is in its address.

The client's first message is an `ExecOptions`. Then binary messages carry bytes, their first byte says which; text
messages are `ExecMessage`. Neither side sends more bytes than the other has given it credit for, so both always read:
a reader that takes its time must not look like one that is gone. The agent's last message holds the result.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Final
from urllib.parse import quote

from pydantic import Field

from vdc.model.base import Record, StrictRecord
from vdc.model.errors import InvalidError, Problem

INPUT, OUTPUT, ERRORS = b"\0", b"\1", b"\2"  # the first byte of a binary message
WINDOW: Final = 262_144  # bytes that each side may send at first, of all kinds together
MOST_BYTES: Final = 32_768  # of one message
MOST_COMMAND: Final = 6_000  # characters of a command as it stands in the address
_MOST_SIZE: Final = 65_535


Variable = Annotated[str, Field(pattern=r"^[^=\x00]+=[^\x00]*$", max_length=131_072)]  # NAME=VALUE


class ExecOptions(StrictRecord):
    """How the command is run. It may hold secrets, so it is not in the address."""

    env: tuple[Variable, ...] = Field(default=(), max_length=1024)  # beside the program's own
    working_dir: str = Field(default="", max_length=4096, pattern=r"^(/[^\x00]*)?$")
    tty: bool = False
    rows: int = Field(default=24, ge=1, le=_MOST_SIZE)
    columns: int = Field(default=80, ge=1, le=_MOST_SIZE)


class ExecResult(Record):
    """How it ended: the command's exit code, or why there is none."""

    exit_code: int | None = None
    problem: Problem | None = None


class ExecMessage(StrictRecord):
    """One of these."""

    credit: int = Field(default=0, ge=0, le=WINDOW)  # so many more bytes may be sent to me
    is_end: bool = False  # of the input
    resize: tuple[int, int] | None = None  # rows, columns
    signal: str = Field(default="", pattern=r"^([A-Z0-9+-]{1,16})?$")
    result: ExecResult | None = None  # the agent's last word


class Window:
    """The credit of one side."""

    def __init__(self) -> None:
        self._left = WINDOW
        self._more = asyncio.Event()

    def grant(self, more_bytes: int) -> None:
        """The other side has taken so much."""
        self._left = min(WINDOW, self._left + more_bytes)
        self._more.set()

    async def take(self, most_bytes: int) -> int:
        """So many bytes may be sent now: one at least."""
        while not self._left:
            self._more.clear()
            await self._more.wait()
        taken = min(self._left, most_bytes, MOST_BYTES)
        self._left -= taken
        return taken


def command_text(command: Sequence[str]) -> str:
    """The command as it stands in the address. Raises InvalidError (`command-too-long`)."""
    text = json.dumps(list(command), ensure_ascii=False, separators=(",", ":"))
    if len(quote(text)) > MOST_COMMAND:
        raise InvalidError(
            "the command is too long",
            hint="send it by standard input: vdc exec -i NAME -- sh < SCRIPT", code="command-too-long",
        )  # fmt: skip
    return text
