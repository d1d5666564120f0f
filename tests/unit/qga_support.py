"""A guest agent that is played: QEMU's protocol on a real socket, with answers of a test's choosing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from hostagent.drivers.guest.qga import QemuGuestAgent

Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Answer = Callable[[dict[str, Any]], bytes | None]


def said(value: object) -> bytes:
    return json.dumps({"return": value}).encode() + b"\n"


@asynccontextmanager
async def serving(path: Path, who: Server) -> AsyncIterator[None]:
    """Nothing of it is left at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(ConnectionError):
            await who(reader, writer)
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_unix_server(one, path=str(path), limit=4 << 20)
    async with server:
        yield
    await asyncio.gather(*tasks)


@asynccontextmanager
async def played(
    path: Path, answer: Answer, *, before: bytes = b"", answer_s: float = 2.0
) -> AsyncIterator[tuple[QemuGuestAgent, list[dict[str, Any]]]]:
    """An agent that answers by `answer` (None: not at all), after having said `before`; and what it was asked."""
    asked: list[dict[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        while line := await reader.readline():
            request = json.loads(line.removeprefix(b"\xff"))
            if request["execute"] == "guest-sync-delimited":
                writer.write(b"\xff" + said(request["arguments"]["id"]))
                continue
            asked.append(request)
            if (reply := answer(request)) is not None:
                writer.write(reply)
            await writer.drain()

    async with serving(path, serve):
        yield QemuGuestAgent(path, answer_s=answer_s), asked
