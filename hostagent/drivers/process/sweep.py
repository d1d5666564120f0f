"""End what an agent that died left running: processes with this agent's mark that no pidfile names.

Only the mark in a process's environment counts (OWNER_VARIABLE, the agent's state folder): never a name.
A start is announced in its pidfile before its process exists, so looking at the processes first and at the
pidfiles second takes no process for a left-over that is just being started. What descends from this very
agent is its own business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from hostagent.drivers.process.identity import (
    PROC,
    ProcessIdentity,
    identity_of,
    open_pidfd,
    pids_with_environment,
    stat_of,
)
from hostagent.drivers.process.pidfile import OWNER_VARIABLE, TOKEN_VARIABLE, read_pidfile
from hostagent.drivers.process.users import GUEST_DIR


async def sweep_processes(folder: Path) -> list[str]:
    """SIGKILL the left-overs of the agent whose state folder this is; returns what they were."""
    return await asyncio.to_thread(_sweep, folder)


def _sweep(folder: Path) -> list[str]:
    marked = [
        (identity, token)
        for pid in pids_with_environment(f"{OWNER_VARIABLE}={folder}")
        if (identity := identity_of(pid)) is not None and (token := _token_of(pid)) and not _is_below_us(pid)
    ]
    recorded = [record for path in _pidfiles(folder) if (record := read_pidfile(path)) is not None]
    tokens = {record.token for record in recorded}
    return [_end(identity) for identity, token in marked if token not in tokens]


def _pidfiles(folder: Path) -> Iterator[Path]:
    """Those of the agent; what lies in a guest's folder is its user's, and says nothing."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != GUEST_DIR]
        yield from (Path(place) / name for name in files if name.endswith(".pid"))


def _end(identity: ProcessIdentity) -> str:
    with contextlib.suppress(OSError):
        name = (PROC / str(identity.pid) / "comm").read_text().strip()
        pidfd = open_pidfd(identity)
        if pidfd is not None:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)
        return f"{name} ({identity.pid})"
    return f"process {identity.pid}"


def _token_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        for word in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            name, _, value = word.partition(b"=")
            if name == TOKEN_VARIABLE.encode():
                return value.decode(errors="replace")
    return ""


def _is_below_us(pid: int) -> bool:
    """Whether this program is among the ancestors."""
    while pid > 1:
        if pid == os.getpid():
            return True
        stat = stat_of(pid)
        pid = stat.parent_pid if stat else 0
    return False
