"""Control groups per host, where the machine lets us: power-off is one atomic write, and its agent can limit guests.

Optional. The unified hierarchy (v2) has the processes of a host, for the write that ends them all. Below it, or in
the hierarchies of v1 for memory and processes where the machine still has these, the host's agent makes a group per
guest (hostagent/drivers/process/cgroup.py): there the agent is in the host's group, with v2 in a leaf of it. The
processors are left out: a host's group would be one competitor, however urgent what runs in it.

Where v2 cannot be written, the processes of a host are killed one by one, by their network namespace (which is done
in any case, for whatever has left the group).
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
_LEAF = "agent"
_OLD_CONTROLLERS = frozenset({"memory", "pids"})


@cache
def _hierarchy() -> Path | None:
    """The unified one."""
    return next((root for root, kind, _ in _mounts() if kind == "cgroup2"), None)


@cache
def _old_hierarchies() -> tuple[Path, ...]:
    """Those of v1 in which an agent can limit its guests."""
    return tuple(root for root, kind, options in _mounts() if kind == "cgroup" and options & _OLD_CONTROLLERS)


def _mounts() -> list[tuple[Path, str, frozenset[str]]]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), right.split(" ", 2)
        root = Path(fields[4])
        if kind in ("cgroup", "cgroup2") and fields[3] == "/" and os.access(root, os.W_OK):
            found.append((root, kind, frozenset(options.split(","))))
    return found


def folder(host: HostPlan) -> Path | None:
    """The host's group, whether or not it exists yet; named after its namespace, which is unique."""
    root = _hierarchy()
    return root / f"{_PREFIX}{host.namespace}" if root else None


def folders(host: HostPlan) -> tuple[Path, ...]:
    """The host's groups in every hierarchy, whether or not they exist yet."""
    roots = (*filter(None, (_hierarchy(),)), *_old_hierarchies())
    return tuple(root / f"{_PREFIX}{host.namespace}" for root in roots)


def all_names() -> frozenset[str]:
    """The groups of all labs on this machine."""
    roots = (*filter(None, (_hierarchy(),)), *_old_hierarchies())
    return frozenset(path.name for root in roots for path in root.glob(f"{_PREFIX}vdc-*"))


def create(host: HostPlan) -> tuple[Path, ...]:
    """Make the host's groups; returns those that its agent is to be in, none where that cannot be done here."""
    joined = []
    for group in folders(host):
        is_unified = group == folder(host)
        own = group / _LEAF if is_unified else group
        with contextlib.suppress(OSError):
            own.mkdir(parents=True, exist_ok=True)
            if not is_unified or (group / _KILL).exists():
                joined.append(own)
    return tuple(joined)


def pids(host: HostPlan) -> frozenset[int]:
    """The processes in the groups and in those below them; empty where there is no group."""
    found: set[int] = set()
    for group in folders(host):
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
    """Remove the groups and those below them; their processes must be dying already."""
    end = time.monotonic() + deadline_s
    for group in folders(host):
        for path in [*sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True), group]:
            while path.exists():
                try:
                    path.rmdir()
                except OSError:  # busy until the kernel has buried the last process
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.002)
