"""A TCP proxy that can go deaf, swallow answers or break connections: half-open connections on demand."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Proxy:
    """Forwards one port. `async with` it; change its behaviour by the attributes."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.swallows_answers = False  # requests arrive, answers do not
        self.is_frozen = False  # nothing passes in either direction, connections stay
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, up_writer, is_answer=False))
                    group.create_task(self._pump(up_reader, writer, is_answer=True))
            finally:
                up_writer.close()
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        while data := await reader.read(65536):
            while self.is_frozen or (is_answer and self.swallows_answers):
                await asyncio.sleep(0.01)
            writer.write(data)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()
