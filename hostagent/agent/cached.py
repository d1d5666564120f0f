"""An answer that costs something, asked for at most every so often."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cached(Generic[T]):
    """An answer that is asked for at most every so often: `vdc get nodes -w` must not become a load."""

    def __init__(self, ask: Callable[[], Awaitable[T]], every_s: float, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._every_s = every_s
        self._clock = clock
        self._asked_at_s = float("-inf")
        self._answer: T | None = None

    async def __call__(self) -> T:
        """The answer now, or as it was a moment ago."""
        if self._answer is None or self._clock() - self._asked_at_s >= self._every_s:
            self._answer = await self._ask()
            self._asked_at_s = self._clock()
        return self._answer
