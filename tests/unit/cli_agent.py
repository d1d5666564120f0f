"""The command line against the real API of one host, with a store in memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from server_support import Served, served

from vdc.api.context import put_context


class Agent:
    """It runs in a thread, as the command line has an event loop of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self.served: Served

    async def _serve(self) -> None:
        async with served(self._folder) as self.served:
            self._ready.set()
            await self._stop.wait()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    @property
    def blobs(self) -> tuple[str, ...]:
        return self.served.context.blobs.digests()


@contextlib.contextmanager
def running_agent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """It serves, and the command line has a context that leads to it."""
    monkeypatch.setenv("VDC_CONFIG", str(folder / "etc" / "config.yaml"))
    monkeypatch.delenv("VDC_CONTEXT", raising=False)
    structlog.configure(
        logger_factory=structlog.ReturnLoggerFactory()
    )  # the agent's log is not the command's output
    made = Agent(folder)
    made.start()
    put_context("test", [f"unix://{made.served.socket}"])
    yield made
    made.stop()
    structlog.reset_defaults()
