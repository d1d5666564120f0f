"""Who a process is. A pid alone is reused; pid, start time and boot together are not.

The start time is field 22 of /proc/PID/stat, in clock ticks since boot (proc(5)), so it does not depend on
the wall clock.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

from vdc.model.base import Record

PROC = Path("/proc")
_EXEC_S, _EXEC_AGAIN_S = 1.0, 0.001  # that a process may be in the middle of execve(2)
_FIELD_STATE = 0  # counted from after the command's closing parenthesis, which is field 3 of proc(5)
_FIELD_PPID = 1
_FIELD_START = 19


class ProcessIdentity(Record):
    """One process for good: no later process is ever equal to it."""

    pid: int
    start_ticks: int
    boot_id: str


class StatFields(Record):
    """What is read of /proc/PID/stat."""

    state: str
    parent_pid: int
    start_ticks: int

    @property
    def is_zombie(self) -> bool:
        """Whether it has ended and only waits to be reaped."""
        return self.state in ("Z", "X")


def parse_stat(text: str) -> StatFields:
    """Parse /proc/PID/stat, whose command may hold blanks and parentheses. Raises ValueError."""
    _, closing, rest = text.rpartition(")")
    fields = rest.split()
    if not closing or len(fields) <= _FIELD_START:
        raise ValueError(f"not the text of /proc/PID/stat: {text[:80]!r}")
    return StatFields(
        state=fields[_FIELD_STATE],
        parent_pid=int(fields[_FIELD_PPID]),
        start_ticks=int(fields[_FIELD_START]),
    )


def stat_of(pid: int) -> StatFields | None:
    """Read the fields of a process; None where there is none."""
    try:
        return parse_stat((PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


@cache
def boot_id() -> str:
    """The kernel's random id of this boot."""
    return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def identity_of(pid: int) -> ProcessIdentity | None:
    """Identify a running process; None where there is none or where it is a zombie."""
    stat = stat_of(pid)
    if stat is None or stat.is_zombie:
        return None
    return ProcessIdentity(pid=pid, start_ticks=stat.start_ticks, boot_id=boot_id())


def open_pidfd(identity: ProcessIdentity) -> int | None:
    """Open a pidfd on exactly this process; None where it has ended. The caller closes it.

    The identity is read after the pidfd was opened: if it matches then, the pidfd cannot mean a later
    process with the same pid.
    """
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    if identity_of(identity.pid) != identity:
        os.close(pidfd)
        return None
    return pidfd


def _all_pids() -> list[int]:
    return sorted(int(folder.name) for folder in PROC.iterdir() if folder.name.isdecimal())


def children_of(pid: int) -> tuple[int, ...]:
    """The processes whose parent is `pid`; slow, reads all of /proc."""
    return tuple(other for other in _all_pids() if (stat := stat_of(other)) and stat.parent_pid == pid)


def pids_with_environment(entry: str) -> tuple[int, ...]:
    """The processes started with `entry` (NAME=value) in their environment; slow, reads all of /proc."""
    wanted = entry.encode()
    return tuple(pid for pid in _all_pids() if wanted in _environment(pid).split(b"\0"))


def _environment(pid: int) -> bytes:
    """Empty where it cannot be known: the process ended meanwhile, or belongs to somebody else.

    In the middle of execve(2) the kernel shows an empty one, and an empty command line with it (proc(5):
    env_start and arg_start are set last), for as long as the process waits for a processor: it is read again.
    """
    folder, end = PROC / str(pid), time.monotonic() + _EXEC_S
    try:
        while True:
            has_begun = bool((folder / "cmdline").read_bytes())  # first: it may begin between the two
            environment = (folder / "environ").read_bytes()
            if environment or has_begun or time.monotonic() > end:
                return environment
            (folder / "exe").readlink()  # of a kernel thread, and of what has ended, there is none
            time.sleep(_EXEC_AGAIN_S)
    except OSError:
        return b""
