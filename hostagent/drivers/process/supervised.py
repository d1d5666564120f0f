"""Keep a helper program (etcd, dnsmasq, swtpm) running: taken over or started, started again when it dies.

`run` belongs in a task group of the caller. Cancelling it leaves the program alive, for the next agent to
take over; only `stop` ends it. Restarts back off by doubling; a program that has lived for a while is
forgiven.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hostagent.drivers.process.adopt import adopt
from hostagent.drivers.process.errors import ProcessError
from hostagent.drivers.process.handle import ProcessHandle
from vdc.model.errors import VdcError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses before restarts, in seconds."""

    first_s: float = 0.2
    factor: float = 2.0
    longest_s: float = 10.0
    forgiven_after_s: float = 30.0

    def pause_s(self, failures: int) -> float:
        """The pause after so many failures in a row (1 is the first)."""
        return float(min(self.longest_s, self.first_s * self.factor ** min(failures - 1, 60)))


class Supervised:
    """One helper program that is to be there all the time."""

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[ProcessHandle]],
        pidfile: Path,
        *,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        find: Callable[[Path], Awaitable[ProcessHandle | None]] = adopt,
    ) -> None:
        self.name = name
        self._start = start
        self._pidfile = pidfile
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._sleep = sleep
        self._find = find
        self._handle: ProcessHandle | None = None
        self._changing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._running = asyncio.Event()
        self._is_restart_asked = False
        self.starts = 0
        self.is_adopted = False
        self.last_error = ""

    @property
    def handle(self) -> ProcessHandle | None:
        """The program as it runs now; None between its death and its restart."""
        return self._handle

    async def running(self) -> ProcessHandle:
        """Wait until the program runs (it need not serve yet)."""
        while self._handle is None:
            await self._running.wait()
        return self._handle

    async def run(self) -> None:
        """Keep the program running until `stop`. Cancelled: returns and leaves it alive."""
        failures = 0
        try:
            while not self._stopping.is_set():
                since = self._clock()
                await self._live_once()
                if self._stopping.is_set():
                    return
                if self._is_restart_asked:
                    self._is_restart_asked, failures = False, 0
                    continue
                has_lived = self._clock() - since >= self._backoff.forgiven_after_s
                failures = 1 if has_lived else failures + 1
                pause_s = self._backoff.pause_s(failures)
                _LOG.warning("%s: %s; it is started again in %g s", self.name, self.last_error, pause_s)
                await self._pause(pause_s)
        finally:
            if self._handle is not None and not self._stopping.is_set():
                self._handle.close()
                self._handle = None

    def restart(self) -> None:
        """End the program, to have it started anew at once: an end that was asked for is no failure."""
        if self._handle is not None:
            self._is_restart_asked = self._handle.signal(signal.SIGTERM)

    @asynccontextmanager
    async def suspended(self, grace_s: float = 5.0) -> AsyncIterator[None]:
        """The program has ended, and is not started again before this is left. Raises ProcessStuckError.

        One that an earlier agent left running is ended too, also where `run` has not taken it over yet.
        """
        async with self._changing:
            handle = self._handle or await self._find(self._pidfile)
            if handle is not None:
                await handle.terminate(grace_s)
            yield

    async def stop(self, grace_s: float = 5.0) -> None:
        """End the program and keep it ended, also where `run` is not running. Raises ProcessStuckError."""
        self._stopping.set()
        async with self._changing:
            handle = self._handle or await self._find(self._pidfile)
        if handle is not None:
            await handle.terminate(grace_s)

    async def _live_once(self) -> None:
        """Take over or start the program and wait for its end; `last_error` says how it ended."""
        try:
            async with self._changing:
                handle = self._handle = await self._find_or_start()
        except (VdcError, OSError) as error:
            self.last_error = str(error)
            return
        if handle is None:
            return
        self._running.set()
        try:
            status = await handle.wait_gone()
            self.last_error = "it ended" + ("" if status is None else f" with status {status}")
        except ProcessError as error:
            self.last_error = str(error)
        finally:
            self._running.clear()
            if not handle.is_alive():
                self._handle = None

    async def _find_or_start(self) -> ProcessHandle | None:
        if self._stopping.is_set():
            return None
        handle = await self._find(self._pidfile)
        self.is_adopted = handle is not None
        if handle is None:
            self.starts += 1
            handle = await self._start()
        return handle

    async def _pause(self, pause_s: float) -> None:
        """Sleep, but not through a `stop`."""
        tasks = [
            asyncio.ensure_future(self._sleep(pause_s)),
            asyncio.create_task(self._stopping.wait(), name=f"{self.name} stopping"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
