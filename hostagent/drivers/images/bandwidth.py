"""How fast this agent sends and receives images, in all, while that could disturb guests in lockstep.

A token bucket without tokens to spare: whoever moves bytes waits until those before it would have gone out at the
rate. The rate is asked for anew each time, so that a limit begins and ends with the lockstep.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

BYTES_PER_MBIT = 125_000
_MOST_BYTES, _LEAST_BYTES = 512 * 1024, 16 * 1024
_PER_S = 20  # pieces at least, so that no reader takes a slow sender for a dead one


class Bandwidth:
    """One per agent. `bytes_per_s` says what is allowed now; 0: no limit."""

    def __init__(
        self,
        bytes_per_s: Callable[[], int] = lambda: 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._free_at_s = 0.0

    def piece_bytes(self) -> int:
        """How much to move at once."""
        rate = self._bytes_per_s()
        return max(_LEAST_BYTES, min(_MOST_BYTES, rate // _PER_S)) if rate else _MOST_BYTES

    async def take(self, size_bytes: int) -> None:
        """Wait until so many bytes may be moved."""
        rate = self._bytes_per_s()
        if not rate:
            return
        now_s = self._clock()
        wait_s = max(0.0, self._free_at_s - now_s)
        self._free_at_s = now_s + wait_s + size_bytes / rate
        if wait_s:
            await self._sleep(wait_s)
