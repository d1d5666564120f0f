"""A program that is played: what tests of helper programs start instead of a process."""

from __future__ import annotations

import asyncio
import signal


class Program:
    """Stands in for a ProcessHandle."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.is_closed = False
        self.was_terminated = False

    def is_alive(self) -> bool:
        return not self.ended.is_set()

    async def wait_gone(self) -> int | None:
        await self.ended.wait()
        return 3

    async def terminate(self, grace_s: float = 5.0) -> int | None:
        self.was_terminated = True
        self.ended.set()
        return 3

    def signal(self, number: signal.Signals) -> bool:
        self.ended.set()
        return True

    def close(self) -> None:
        self.is_closed = True
