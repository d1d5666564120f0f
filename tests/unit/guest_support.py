"""A guest of a few lines at the other end of a unix socket: it does what the test tells it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hostagent.drivers.guest.channel import GuestChannel
from hostagent.drivers.guest.frames import HEADER, Frame, FrameType, credit_frame

Script = Callable[["Guest"], Awaitable[None]]


class Guest:
    """The guest's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.heard: list[Frame] = []

    async def frame(self) -> Frame:
        _, kind, _, stream, length = HEADER.unpack(await self.reader.readexactly(HEADER.size))
        frame = Frame(FrameType(kind), stream, await self.reader.readexactly(length))
        self.heard.append(frame)
        return frame

    async def expect(self, kind: FrameType) -> Frame:
        """The next frame of this type; others are kept in `heard`."""
        while (frame := await self.frame()).type is not kind:
            pass
        return frame

    async def answer_reset(self) -> None:
        frame = await self.frame()
        assert frame.type is FrameType.RESET and len(frame.payload) == 16
        await self.raw(frame.encoded())

    async def request(self) -> tuple[int, dict[str, Any]]:
        frame = await self.expect(FrameType.OPEN)
        return frame.stream, json.loads(frame.payload)

    async def send(self, kind: FrameType, stream: int, payload: bytes = b"") -> None:
        await self.raw(Frame(kind, stream, payload).encoded())

    async def credit(self, stream: int, more: int) -> None:
        await self.raw(credit_frame(stream, more).encoded())

    async def done(self, stream: int, **answer: Any) -> None:
        await self.send(FrameType.DONE, stream, json.dumps({"error": "", **answer}).encode())

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


@asynccontextmanager
async def scripted(socket: Path, script: Script) -> AsyncIterator[list[Guest]]:
    """A socket at which every connection is served by the script; the connections that there were."""
    guests: list[Guest] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guest = Guest(reader, writer)
        guests.append(guest)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(guest)
            while await reader.read(65536):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()  # what it has still to say is for nobody

    server = await asyncio.start_unix_server(serve, socket)
    try:
        yield guests
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def talking_to(socket: Path, script: Script) -> AsyncIterator[GuestChannel]:
    """A channel to a guest that has answered RESET and then does what the script says."""

    async def whole(guest: Guest) -> None:
        await guest.answer_reset()
        await script(guest)

    async with scripted(socket, whole):
        channel = await GuestChannel.connect(socket, guest="web", deadline_s=2.0)
        try:
            yield channel
        finally:
            await channel.close()
