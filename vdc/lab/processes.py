"""The processes of a host, by the namespace that they are in, and how they end.

A process is named by pid *and* start time: pids are used again. Signals go through a pidfd that was opened
before the last look, so that they never hit a successor. Nothing is ever chosen by the name of a program.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from vdc.lab.models import AgentProcess
from vdc.model.errors import RefusedError, UnavailableError

_PROC = Path("/proc")
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


@dataclass(frozen=True, slots=True)
class Process:
    """One process as `/proc` shows it."""

    pid: int
    start_time: int
    parent: int
    state: str  # one letter: R, S, D, T, Z, ...
    comm: str
    netns: int  # inode of its network namespace

    @property
    def command(self) -> tuple[str, ...]:
        """Its arguments; empty where it is gone."""
        try:
            return tuple(
                os.fsdecode(word) for word in (_PROC / str(self.pid) / "cmdline").read_bytes().split(b"\0")
            )
        except _GONE:
            return ()


def all_processes() -> tuple[Process, ...]:
    """Every process but zombies and kernel threads that have no namespace to show."""
    pids = [int(entry) for entry in os.listdir(_PROC) if entry.isdigit()]  # noqa: PTH208 - names are enough
    return tuple(process for pid in pids if (process := read_process(pid)))


def processes_of(inodes: Collection[int], pids: Collection[int] = ()) -> tuple[Process, ...]:
    """The processes of these network namespaces, the ones with these pids, and all that descend from them.

    Descendants count because a sandbox may give its program a network namespace of its own.
    """
    everything = {process.pid: process for process in all_processes()}
    found = {pid for pid, process in everything.items() if process.netns in inodes or pid in pids}
    while more := {pid for pid, process in everything.items() if process.parent in found} - found:
        found |= more
    return tuple(everything[pid] for pid in sorted(found))


def read_process(pid: int) -> Process | None:
    """One process; None where it is gone, or a zombie."""
    folder = _PROC / str(pid)
    try:
        netns = (folder / "ns" / "net").stat().st_ino
        text = (folder / "stat").read_text()
    except _GONE:
        return None
    head, _, tail = text.rpartition(")")  # the name in the middle may hold anything
    fields = tail.split()
    state, parent, start_time = fields[0], int(fields[1]), int(fields[19])
    if state in "ZX":
        return None
    return Process(pid, start_time, parent, state, head.partition("(")[2], netns)


def is_running(recorded: AgentProcess | None) -> bool:
    """Whether the recorded process still runs, and is not another one with its pid."""
    process = read_process(recorded.pid) if recorded else None
    return process is not None and recorded is not None and process.start_time == recorded.start_time


def check_outside(inodes: Collection[int]) -> None:
    """`RefusedError` (`inside-lab`) where this program is in one of these namespaces: it would end itself."""
    own = read_process(os.getpid())
    if own is not None and own.netns in inodes:
        raise RefusedError("this command runs inside the lab", hint="run it outside", code="inside-lab")


def kill_all(find: Callable[[], Collection[Process]], deadline_s: float) -> int:
    """SIGKILL whatever `find` finds until it finds nothing; returns how many were killed.

    Raises `UnavailableError` (`process-stuck`) when something is still there at the deadline.
    """
    end = time.monotonic() + deadline_s
    killed: set[tuple[int, int]] = set()
    while found := find():
        if time.monotonic() > end:
            stuck = ", ".join(f"{process.comm} ({process.pid})" for process in found)
            raise UnavailableError(f"these processes do not die: {stuck}", code="process-stuck")
        _kill_and_wait(found, end)
        killed |= {(process.pid, process.start_time) for process in found}
    return len(killed)


def signal_all(found: Collection[Process], number: signal.Signals) -> None:
    """Send a signal to each process that is still the same one."""
    for process in found:
        with _pidfd(process) as descriptor:
            if descriptor is not None:
                _send(descriptor, number)


def _kill_and_wait(found: Collection[Process], end: float) -> None:
    poller = select.poll()
    with contextlib.ExitStack() as stack:
        waiting = set()
        for process in found:
            descriptor = stack.enter_context(_pidfd(process))
            if descriptor is not None and _send(descriptor, signal.SIGKILL):
                poller.register(descriptor, select.POLLIN)
                waiting.add(descriptor)
        while waiting and (left := end - time.monotonic()) > 0:
            for descriptor, _ in poller.poll(left * 1000):
                poller.unregister(descriptor)
                waiting.discard(descriptor)


@contextlib.contextmanager
def _pidfd(process: Process) -> Iterator[int | None]:
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        now = read_process(process.pid)
        yield descriptor if now is not None and now.start_time == process.start_time else None
    finally:
        os.close(descriptor)


def _send(descriptor: int, number: signal.Signals) -> bool:
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    return True
