"""A handle on one running process, ours or adopted, by pidfd.

Invariants: a signal never reaches a process that merely got the same pid; the end of the process is noticed
at once by the event loop, also where it is not our child; what is our child is reaped, nothing else is.

Dangers: a handle belongs to the event loop that it was made in. Call `close` (it leaves the process alone)
or await the end; otherwise the pidfd stays open. Do not wait for the same child through `subprocess` as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hostagent.drivers.process.errors import ProcessStuckError
from hostagent.drivers.process.identity import ProcessIdentity, identity_of, open_pidfd
from hostagent.drivers.process.pidfile import remove_pidfile
from vdc.model.errors import BugError

KILL_DEADLINE_S = 5.0
_MONITOR_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """What a program has had of the processors, and what it has waited for them while others had them."""

    ran_s: float
    waited_s: float

    @property
    def wanted_s(self) -> float:
        """Both: by this a busy machine does not make a busy program look idle."""
        return self.ran_s + self.waited_s


class Watched:
    """One pidfd in the event loop: `ended` is set when the process has ended and, if ours, was reaped."""

    def __init__(self, identity: ProcessIdentity, pidfd: int, *, is_child: bool) -> None:
        self.identity = identity
        self.is_child = is_child
        self.ended = asyncio.Event()
        self.returncode: int | None = None
        self._pidfd: int | None = pidfd
        self._held: IO[bytes] | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._on_end)

    def _on_end(self) -> None:
        if self._pidfd is None:
            return
        if self.is_child:
            self._reap(self._pidfd)
        self.close()
        self.ended.set()

    def _reap(self, pidfd: int) -> None:
        try:
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:  # somebody else reaped it; its status is lost, its end is not
            return
        if result is not None:
            was_killed = result.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
            self.returncode = -result.si_status if was_killed else result.si_status

    @property
    def is_alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        if self._pidfd is None:
            return not self.ended.is_set() and identity_of(self.identity.pid) == self.identity
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return not poller.poll(0)

    def send(self, number: int) -> bool:
        """Send a signal; False where the process has ended."""
        if self._pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def keep_open(self, file: IO[bytes]) -> None:
        """Hold a file open for as long as the process is watched."""
        self._held = file
        if self.is_closed:
            file.close()

    @property
    def is_closed(self) -> bool:
        """Whether nothing is watched any more, because of `close` or because of the end."""
        return self._pidfd is None

    def close(self) -> None:
        """Stop watching; the process goes on."""
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self._held is not None:
            self._held.close()


class ProcessHandle:
    """A running program, and the sandbox's monitor process beside it where there is one."""

    def __init__(
        self,
        program: Watched,
        *,
        monitor: Watched | None = None,
        pidfile: Path | None = None,
        token: str = "",
        tag: str = "",
    ) -> None:
        self._program = program
        self._monitor = monitor
        self._pidfile = pidfile
        self._token = token
        self.tag = tag

    @property
    def identity(self) -> ProcessIdentity:
        """Of the program itself, never of its sandbox."""
        return self._program.identity

    @property
    def monitor_identity(self) -> ProcessIdentity | None:
        """Of the sandbox's monitor process."""
        return self._monitor.identity if self._monitor else None

    @property
    def pid(self) -> int:
        """The program's pid, for messages; never signal by it."""
        return self.identity.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, or minus the number of the signal that ended it; None while it runs or if unknowable.

        It is known only where the process that started it is this one. For a sandboxed program it arrives
        with the monitor's end: await `wait_gone`.
        """
        if self._monitor is None:
            return self._program.returncode
        return _unshell(self._monitor.returncode)

    def is_alive(self) -> bool:
        """Whether the program runs now; a zombie does not."""
        return self._program.is_alive

    def processor_time(self) -> ProcessorTime:
        """Of all its threads since they began; nothing where it has ended."""
        ran_ns = waited_ns = 0
        for path in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                ran, waited, _ = path.read_text().split()
                ran_ns, waited_ns = ran_ns + int(ran), waited_ns + int(waited)
        return ProcessorTime(ran_ns / 1e9, waited_ns / 1e9)

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to the program; False where it has ended."""
        return self._program.send(number)

    def kill(self) -> bool:
        """Send SIGKILL to the program; False where it has ended. Returns at once; see `wait`."""
        return self.signal(signal.SIGKILL)

    async def wait(self) -> None:
        """Return as soon as the program has ended. Any number of tasks may wait."""
        if self._program.is_closed and not self._program.ended.is_set():
            raise BugError(f"the handle on process {self.pid} was closed; it cannot be waited for")
        await self._program.ended.wait()

    async def wait_gone(self) -> int | None:
        """Wait for the end of the program and its sandbox and remove the pidfile; returns `returncode`."""
        await self.wait()
        if self._monitor is not None:
            try:
                async with asyncio.timeout(_MONITOR_GRACE_S):
                    await self._monitor.ended.wait()
            except TimeoutError:
                self._monitor.send(signal.SIGKILL)
                await self._monitor.ended.wait()
        if self._pidfile is not None:
            with contextlib.suppress(FileNotFoundError):
                await asyncio.to_thread(remove_pidfile, self._pidfile, self._token)
        return self.returncode

    async def terminate(
        self, grace_s: float = 5.0, *, kill_deadline_s: float = KILL_DEADLINE_S
    ) -> int | None:
        """SIGTERM, after `grace_s` SIGKILL, until nothing is left; returns `returncode`.

        With `grace_s` 0 it is SIGKILL at once. Raises ProcessStuckError where even that does not end it.
        """
        if grace_s > 0 and self.signal(signal.SIGTERM):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self.wait()
        if self.kill():
            try:
                async with asyncio.timeout(kill_deadline_s):
                    await self.wait()
            except TimeoutError:
                raise ProcessStuckError(self.pid, kill_deadline_s) from None
        return await self.wait_gone()

    def close(self) -> None:
        """Let go of the process; it runs on and can be adopted again from its pidfile."""
        self._program.close()
        if self._monitor is not None:
            self._monitor.close()


def _unshell(status: int | None) -> int | None:
    """The monitor passes on 128 + N where signal N ended the program."""
    return 128 - status if status is not None and status > 128 else status


def watch_identity(identity: ProcessIdentity) -> Watched | None:
    """Watch a process that is not our child; None where it has ended."""
    pidfd = open_pidfd(identity)
    return None if pidfd is None else Watched(identity, pidfd, is_child=False)
