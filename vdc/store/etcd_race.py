"""Ask several members for the same thing and take the first answer.

Only for what may be done twice: reads, lease renewals, commits whose second application fails its compare.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from vdc.store.etcd_client import Endpoints
from vdc.store.etcd_errors import CallError, Meaning

_T = TypeVar("_T")
_RETRY_PAUSE_S = 0.02
_SLOW_S = 0.1
_LAST_RETRY_S = 0.05  # before the deadline, which would cut it off and leave a doubt where there was none


class Race(Generic[_T]):
    """One request, tried until an answer, a refusal that every member would repeat, or the deadline."""

    def __init__(
        self,
        endpoints: Endpoints,
        attempt: Callable[[str, float], Coroutine[Any, Any, _T]],
        *,
        hedge_s: float,
        deadline_s: float,
    ) -> None:
        """`attempt(endpoint, timeout_s)`; the next member is asked too after `hedge_s` without an answer."""
        self._endpoints = endpoints
        self._attempt = attempt
        self._hedge_s = hedge_s
        self._deadline_s = deadline_s
        self._running: dict[asyncio.Task[_T], str] = {}
        self._started_at: dict[str, float] = {}
        self._retry_at: dict[str, float] = {}
        self._end = 0.0
        self._may_have_effect = False
        self._last: CallError | None = None

    async def winner(self) -> _T:
        """The first answer.

        Raises CallError: at once where the request is refused for good, else at the deadline, and then its
        meaning is UNKNOWN if any attempt was unknown or is unanswered.
        """
        loop = asyncio.get_running_loop()
        end = self._end = loop.time() + self._deadline_s
        next_start = loop.time()
        try:
            while (now := loop.time()) < end:
                while now >= next_start and (endpoint := self._next_endpoint(now)):
                    self._start(endpoint, end - now)
                    next_start = now + self._hedge_s
                for task in await self._wait(min(end, self._wake_at(next_start)) - now):
                    if (error := self._failure(task)) is None:
                        self._blame_the_slow(loop.time())
                        return task.result()
                    self._retry_at[error.endpoint] = loop.time() + _RETRY_PAUSE_S
                    next_start = loop.time()
        finally:
            await self._cancel_running()
        raise self._verdict()

    def _blame_the_slow(self, now: float) -> None:
        """Whoever was overtaken by a later attempt is asked last for a while."""
        for task, endpoint in self._running.items():
            if not task.done() and now - self._started_at[endpoint] > max(self._hedge_s, _SLOW_S):
                self._endpoints.failed(endpoint)

    def _next_endpoint(self, now: float) -> str | None:
        return next((one for one in self._endpoints.in_order() if self._due_at(one) <= now), None)

    def _due_at(self, endpoint: str) -> float:
        """When it may be asked (again): never while it is being asked, nor so late that the deadline cuts it off."""
        if endpoint in self._running.values():
            return math.inf
        at = self._retry_at.get(endpoint)
        if at is None:
            return -math.inf
        too_late = max(at, asyncio.get_running_loop().time()) > self._end - _LAST_RETRY_S
        return math.inf if too_late else at

    def _wake_at(self, next_start: float) -> float:
        """When the next attempt may begin; far away where every member is being asked."""
        return max(next_start, min(map(self._due_at, self._endpoints.all)))

    def _start(self, endpoint: str, timeout_s: float) -> None:
        task = asyncio.create_task(self._attempt(endpoint, timeout_s), name=f"etcd request to {endpoint}")
        self._running[task] = endpoint
        self._started_at[endpoint] = asyncio.get_running_loop().time()

    async def _wait(self, timeout_s: float) -> set[asyncio.Task[_T]]:
        if not self._running:
            await asyncio.sleep(timeout_s)
            return set()
        done, _ = await asyncio.wait(self._running, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return done

    def _failure(self, task: asyncio.Task[_T]) -> CallError | None:
        """None where the task has an answer; raises where no other member would say anything else."""
        error = task.exception()
        self._running.pop(task)
        if error is None:
            return None
        if not isinstance(error, CallError):
            raise error
        if error.meaning not in (Meaning.NO_EFFECT, Meaning.UNKNOWN) and not self._may_have_effect:
            raise error
        if self._last is None or not isinstance(error.__cause__, TimeoutError):
            self._last = (
                error  # the deadline cuts off the last attempt, which then says nothing of the reason
            )
        self._may_have_effect |= error.meaning is Meaning.UNKNOWN
        return error

    async def _cancel_running(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    def _verdict(self) -> CallError:
        if self._running or self._may_have_effect:
            text = self._last.text if self._last else "no answer in time"
            endpoint = self._last.endpoint if self._last else "every member"
            return CallError(endpoint, Meaning.UNKNOWN, text)
        return self._last or CallError("every member", Meaning.NO_EFFECT, "the deadline had passed")
