"""A control group per host, where the machine lets us: power-off is then one atomic write.

Optional. Where cgroup v2 cannot be written, `create` returns None and the processes of a host are killed one
by one, by their network namespace (which is done in any case, for whatever has left the group).
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import cache
from pathlib import Path

from vdc.lab.plan import HostPlan

_PREFIX = "lab-"
_KILL = "cgroup.kill"
_PROCS = "cgroup.procs"


@cache
def _hierarchy() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if right.startswith("cgroup2 ") and fields[3] == "/":
            root = Path(fields[4])
            return root if os.access(root, os.W_OK) else None
    return None


def folder(host: HostPlan) -> Path | None:
    """The host's group, whether or not it exists yet; named after its namespace, which is unique."""
    root = _hierarchy()
    return root / f"{_PREFIX}{host.namespace}" if root else None


def all_names() -> frozenset[str]:
    """The groups of all labs on this machine."""
    root = _hierarchy()
    return frozenset(path.name for path in root.glob(f"{_PREFIX}vdc-*")) if root else frozenset()


def create(host: HostPlan) -> Path | None:
    """Make the host's group; None where that cannot be done here."""
    group = folder(host)
    if group is None:
        return None
    try:
        group.mkdir(exist_ok=True)
    except OSError:
        return None
    return group if (group / _KILL).exists() else None


def pids(host: HostPlan) -> frozenset[int]:
    """The processes in the group and in those below it; empty where there is no group."""
    group = folder(host)
    if group is None:
        return frozenset()
    found: set[int] = set()
    for path in (group / _PROCS, *group.glob(f"**/{_PROCS}")):
        with contextlib.suppress(OSError):
            found |= {int(line) for line in path.read_text().split()}
    return frozenset(found)


def kill(host: HostPlan) -> None:
    """SIGKILL everything in the group at once."""
    group = folder(host)
    if group is not None:
        with contextlib.suppress(OSError):
            (group / _KILL).write_text("1")


def remove(host: HostPlan, deadline_s: float) -> None:
    """Remove the group and those below it; its processes must be dying already."""
    group = folder(host)
    if group is None:
        return
    end = time.monotonic() + deadline_s
    for path in [*sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True), group]:
        while path.exists():
            try:
                path.rmdir()
            except OSError:  # busy until the kernel has buried the last process
                if time.monotonic() > end:
                    raise
                time.sleep(0.002)
