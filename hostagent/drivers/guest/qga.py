"""QEMU's guest agent: JSON over a port of virtio-serial (QEMU's docs/interop/qemu-ga).

QEMU serves one connection at a time and the guest's end may be in the middle of an answer that nobody has read, so
each request has a connection of its own that begins with `guest-sync-delimited`: what comes before the byte 0xFF and
our number is thrown away. QEMU takes the connection whether or not an agent runs in the guest; only the answer shows.

In lockstep the primary's guest alone hears a request. What it changes reaches the secondary's with the next
checkpoint, like anything that a guest did by itself.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from hostagent.drivers.guest import qgareplies as replies
from hostagent.drivers.guest.agent import CommandResult, GuestCommand
from hostagent.drivers.guest.errors import GuestGoneError, GuestRefusedError
from hostagent.drivers.process.foreign import stream_foreign
from vdc.model.guest import GuestInterface

T = TypeVar("T")
_DELIMITER: Final = b"\xff"
_MOST_BYTES: Final = 48 << 20  # of an answer: both outputs of a program, 16 MiB each, as base64
_LIST_BYTES: Final = 1 << 20  # of a list
_SMALL_BYTES: Final = 64 << 10  # of any other; what is longer is read in a thread
_SYNC_BYTES: Final = 1 << 10  # of one that has a number in it and nothing else
_MOST_STALE: Final = 256  # answers to others before ours
_MOST_INPUT_BYTES: Final = 1 << 20
_CHUNK_BYTES: Final = 64 << 10
_ANSWER_S: Final = 5.0
_FREEZE_S: Final = 30.0  # it writes out what is dirty
_FIRST_POLL_S, _LAST_POLL_S = 0.02, 0.5


class QemuGuestAgent:
    """See `GuestAgent`. One per VM; `socket` lies in the folder of the guest's user."""

    def __init__(self, socket: Path, *, answer_s: float = _ANSWER_S) -> None:
        self._socket = socket
        self._answer_s = answer_s
        self._turn = asyncio.Lock()

    async def ping(self) -> None:
        """See the protocol."""
        await self._ask("guest-ping", replies.anything)

    async def interfaces(self) -> tuple[GuestInterface, ...]:
        """See the protocol."""
        return await self._ask("guest-network-get-interfaces", replies.interfaces, most_bytes=_LIST_BYTES)

    async def shut_down(self) -> None:
        """See the protocol. An agent that does as it is told may not answer any more."""
        async with self._connection() as connection:
            await connection.send("guest-shutdown", {"mode": "powerdown"})

    async def execute(self, command: GuestCommand, *, deadline_s: float) -> CommandResult:
        """See the protocol."""
        if len(command.stdin) > _MOST_INPUT_BYTES:
            raise GuestRefusedError(
                f"QEMU's guest agent takes at most {_MOST_INPUT_BYTES >> 20} MiB of input",
                code="input-too-large",
            )
        arguments: dict[str, Any] = {
            "path": command.argv[0], "arg": list(command.argv[1:]), "capture-output": True,
        }  # fmt: skip
        if command.env:
            arguments["env"] = list(command.env)
        if command.stdin:
            arguments["input-data"] = base64.b64encode(command.stdin).decode()
        pid = await self._ask("guest-exec", replies.started, arguments)
        try:
            async with asyncio.timeout(deadline_s):
                return await self._end_of(pid)
        except TimeoutError as error:
            raise GuestGoneError(
                f"{command.argv[0][:80]} did not end within {deadline_s:g} s; it goes on in the guest as process {pid}",
                code="guest-exec-late",
            ) from error

    async def _end_of(self, pid: int) -> CommandResult:
        pause_s = _FIRST_POLL_S
        while True:
            result = await self._ask("guest-exec-status", replies.ended, {"pid": pid}, most_bytes=_MOST_BYTES)
            if result is not None:
                return result
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_POLL_S)

    async def freeze(self) -> int:
        """See the protocol."""
        return await self._ask("guest-fsfreeze-freeze", replies.count, answer_s=_FREEZE_S)

    async def thaw(self) -> int:
        """See the protocol."""
        return await self._ask("guest-fsfreeze-thaw", replies.count, answer_s=_FREEZE_S)

    async def _ask(
        self,
        command: str,
        take: Callable[[Any], T],
        arguments: dict[str, Any] | None = None,
        *,
        most_bytes: int = _SMALL_BYTES,
        answer_s: float | None = None,
    ) -> T:
        """What `take` makes of the answer."""
        async with self._connection() as connection:
            try:
                async with asyncio.timeout(answer_s or self._answer_s):
                    await connection.send(command, arguments)
                    line = await connection.line(most_bytes)
            except (TimeoutError, OSError) as error:
                raise GuestGoneError(
                    f"the guest's agent did not answer {command}", code="guest-agent-silent"
                ) from error
        if len(line) <= _SMALL_BYTES:
            return take(replies.returned(command, line))
        return await asyncio.to_thread(lambda: take(replies.returned(command, line)))

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        """One in step with the agent. Raises GuestGoneError."""
        async with self._turn:
            try:
                reader, writer = await stream_foreign(self._socket)
            except OSError as error:
                raise GuestGoneError(
                    f"the port of the guest agent cannot be opened: {error.strerror}",
                    code="guest-agent-silent",
                ) from error
            connection = _Connection(reader, writer)
            try:
                async with asyncio.timeout(self._answer_s):
                    await connection.synchronise()
                yield connection
            except (TimeoutError, OSError) as error:
                raise GuestGoneError(
                    "no guest agent answers in the guest",
                    hint="install qemu-guest-agent there, and see that it runs",
                    code="guest-agent-silent",
                ) from error
            finally:
                writer.transport.abort()  # what it has still to say is for nobody


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._left = b""

    async def send(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        """Write a request; raises OSError."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._writer.write(json.dumps(request).encode() + b"\n")
        await self._writer.drain()

    async def synchronise(self) -> None:
        """Read until our own number comes back; raises OSError, GuestGoneError."""
        number = secrets.randbits(31)
        self._writer.write(_DELIMITER)  # what an earlier one sent by half is over with this
        await self.send("guest-sync-delimited", {"id": number})
        thrown_away = stale = 0
        while True:
            before, found, after = self._left.partition(_DELIMITER)
            thrown_away += len(before)
            if thrown_away > _MOST_BYTES or stale > _MOST_STALE:
                raise replies.nonsense("no end")
            self._left = after if found else await self._more()
            if found and await self._is_answer(number):
                return
            stale += bool(found)

    async def _is_answer(self, number: int) -> bool:
        """Whether what follows is; if not it is thrown away."""
        # Ours may follow half of another one.
        line = (await self.line(_SMALL_BYTES)).rpartition(_DELIMITER)[2]
        if len(line) > _SYNC_BYTES:
            return False
        try:
            return bool(json.loads(line)["return"] == number)
        except (ValueError, LookupError, TypeError, RecursionError):
            return False

    async def line(self, most_bytes: int) -> bytes:
        """The next line; raises GuestGoneError where it has no end."""
        parts, size = [], 0
        while True:
            before, found, after = self._left.partition(b"\n")
            parts.append(before)
            size += len(before)
            if size > most_bytes:
                raise replies.nonsense(f"more than {most_bytes >> 10} KiB")
            if found:
                self._left = after
                return b"".join(parts)
            self._left = await self._more()

    async def _more(self) -> bytes:
        chunk = await self._reader.read(_CHUNK_BYTES)
        if not chunk:
            raise ConnectionResetError
        return chunk
