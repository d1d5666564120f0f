"""A connection to the init of a container's guest: many requests at once over one unix socket.

Nothing that comes back is trusted. A frame that breaks the rules, or more bytes than the guest was allowed, end the
connection; a guest that is silent, or takes nothing, runs into a deadline. What waits in memory is bounded by the
credit that every stream begins with.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from hostagent.drivers.guest.errors import GuestGoneError, GuestRefusedError
from hostagent.drivers.guest.frames import (
    HEADER,
    MOST_PAYLOAD,
    MOST_STREAMS,
    NONCE_BYTES,
    Frame,
    FrameError,
    FrameType,
    parse_header,
)
from hostagent.drivers.guest.stream import GuestStream
from hostagent.drivers.process.foreign import stream_foreign
from vdc.model.strict_yaml import StrictError, parse_json

HANDSHAKE_S: Final = 5.0
ASK_AGAIN_S: Final = 1.0
WRITE_S: Final = 20.0  # for the guest to take a frame; a checkpoint, or a planned promotion, is over by then
MOST_SKIPPED: Final = 16 << 20  # bytes of an earlier agent's streams, before the answer to RESET
_MOST_VALUES: Final = 4_096  # of an answer
_CHUNK: Final = 65_536
_GONE: Final = "the guest has ended, or it runs on another host now"
_AT_ONCE: Final = 32  # frames


class GuestChannel:
    """Made by `connect`. It ends by `close`, with QEMU, or by what is no frame; `closed` says so."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guest: str) -> None:
        self.closed = asyncio.Event()
        self._guest = guest
        self._reader = reader
        self._writer = writer
        self._streams: dict[int, GuestStream] = {}
        self._last = 0
        self._sending = asyncio.Lock()
        self._later: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._receive(), name=f"{guest} guest channel")

    @classmethod
    async def connect(cls, path: Path, *, guest: str, deadline_s: float = HANDSHAKE_S) -> Self:
        """Raises GuestGoneError where no init answers."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(deadline_s):
                reader, writer = await stream_foreign(path, limit=2 * MOST_PAYLOAD)
                await _handshake(reader, writer)
        except BaseException as error:
            if writer is not None:
                writer.transport.abort()
            if isinstance(error, TimeoutError):
                raise GuestGoneError(
                    f"{guest}: nothing answers in the guest within {deadline_s:g} s", code="guest-silent"
                ) from error
            if isinstance(error, OSError | FrameError | asyncio.IncompleteReadError):
                why = getattr(error, "strerror", None) or str(error)
                raise GuestGoneError(
                    f"{guest}: the guest cannot be spoken to: {why}", code="guest-silent"
                ) from error
            raise
        return cls(reader, writer, guest)

    async def open(self, request: Mapping[str, Any]) -> GuestStream:
        """Begin a request. Raises GuestGoneError, and GuestRefusedError where too many are under way."""
        self._require_open()
        if len(self._streams) >= MOST_STREAMS:
            if any(stream.is_abandoned for stream in self._streams.values()):
                self._end("the guest does not end what was called off")
                self._require_open()
            raise GuestRefusedError(
                f"{self._guest}: {MOST_STREAMS} requests are under way", code="guest-busy"
            )
        payload = json.dumps(dict(request), separators=(",", ":")).encode()
        if len(payload) > MOST_PAYLOAD:
            raise GuestRefusedError(f"{self._guest}: the request is too long", code="request-too-long")
        self._last += 1
        stream = GuestStream(self._last, self._guest, self._send, self._send_later)
        self._streams[stream.number] = stream
        try:
            await self._send(Frame(FrameType.OPEN, stream.number, payload))
        except BaseException:
            if stream.is_open:
                stream.cancel()  # the guest will answer
            else:
                self._forget(stream.number)
            raise
        return stream

    async def ask(self, operation: str, *, deadline_s: float, **fields: object) -> Mapping[str, Any]:
        """A request without input, whose output does not matter; what DONE says. Raises GuestError's kin."""
        try:
            async with asyncio.timeout(deadline_s), await self.open({"op": operation, **fields}) as stream:
                return await stream.answer()
        except TimeoutError as error:
            raise GuestGoneError(
                f"{self._guest}: the guest did not answer {operation} within {deadline_s:g} s",
                code="guest-silent",
            ) from error

    async def close(self) -> None:
        """Idempotent; streams that are under way end with GuestGoneError."""
        self._end("the connection to the guest was closed")
        for task in (tasks := [self._task, *self._later]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- inside

    def _require_open(self) -> None:
        if self.closed.is_set():
            raise GuestGoneError(f"{self._guest}: the connection to the guest has ended")

    async def _send(self, frame: Frame) -> None:
        """One frame, whole; the next one waits until the guest takes what is under way."""
        self._require_open()
        try:
            async with asyncio.timeout(WRITE_S), self._sending:
                self._writer.write(frame.encoded())
                if frame.type is FrameType.OPEN and frame.stream in self._streams:
                    self._streams[frame.stream].is_open = True
                await self._writer.drain()
        except TimeoutError as error:
            self._end("the guest takes nothing")
            raise GuestGoneError(f"{self._guest}: the guest takes nothing", code="guest-silent") from error
        except OSError as error:
            self._end(_GONE)
            raise GuestGoneError(f"{self._guest}: {_GONE}") from error

    def _send_later(self, frame: Frame) -> None:
        """After whatever is under way; nobody waits for it. Where it cannot be sent the connection has ended."""

        async def send() -> None:
            with contextlib.suppress(GuestGoneError):
                await self._send(frame)

        task = asyncio.create_task(send(), name=f"{self._guest} guest channel, called off")
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def _forget(self, number: int) -> None:
        self._streams.pop(number, None)

    async def _receive(self) -> None:
        why = _GONE
        try:
            while True:
                for _ in range(_AT_ONCE):
                    self._take(await _read_frame(self._reader))
                await asyncio.sleep(
                    0
                )  # what has arrived is read without a pause, and others wait for this loop
        except FrameError as error:
            why = f"the guest breaks the rules of its channel: {error}"
        except (asyncio.IncompleteReadError, OSError):
            pass
        self._end(why)

    def _take(self, frame: Frame) -> None:
        if frame.type is FrameType.RESET:
            raise FrameError("RESET without being asked")
        stream = self._streams.get(frame.stream)
        if stream is None:
            raise FrameError(f"a frame of stream {frame.stream}, which is not open")
        if frame.type is FrameType.DONE:
            answer = _answer_in(frame.payload)
            self._forget(stream.number)
            stream.done(answer)
        else:
            stream.take(frame)

    def _end(self, why: str) -> None:
        if self.closed.is_set():
            return
        self.closed.set()
        with contextlib.suppress(OSError):
            self._writer.transport.abort()
        failure = GuestGoneError(f"{self._guest}: {why}")
        for stream in self._streams.values():
            stream.fail(failure)
        self._streams.clear()


async def _handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send RESET and skip what comes before its echo.

    It is sent again, as another one, while no answer comes: the guest takes it for the rest of a frame where an
    earlier agent died within one, and saw nothing of the connection's end because the next began at once.
    """
    seen, skipped = b"", 0
    while True:
        reset = Frame(FrameType.RESET, 0, os.urandom(NONCE_BYTES)).encoded()
        writer.write(reset)
        await writer.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_AGAIN_S):
                while reset not in seen:
                    kept = seen[-(len(reset) - 1) :]
                    skipped += len(seen) - len(kept)
                    if skipped > MOST_SKIPPED:
                        raise FrameError("no answer to RESET in all that the guest sends")
                    seen = kept
                    chunk = await reader.read(_CHUNK)
                    if not chunk:
                        raise FrameError("the connection ended at once")
                    seen += chunk
                break
    if seen.partition(reset)[2]:  # the guest has nothing to say before it is asked
        raise FrameError("bytes behind the answer to RESET")


async def _read_frame(reader: asyncio.StreamReader) -> Frame:
    kind, stream, length = parse_header(await reader.readexactly(HEADER.size))
    return Frame(kind, stream, await reader.readexactly(length))


def _answer_in(payload: bytes) -> Mapping[str, Any]:
    """Raises FrameError where it is no JSON object."""
    try:
        answer = parse_json(payload, max_values=_MOST_VALUES)
    except StrictError as error:
        raise FrameError("an answer that is no JSON") from error
    if not isinstance(answer, dict):
        raise FrameError("an answer that is no object")
    return answer
