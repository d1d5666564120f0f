"""A control group per guest: how much memory and how many processes it may have, and its share of the processors.

Groups are made beside or below the agent's own, never elsewhere: what this host's service manager (or the lab) has
given to the agent is the agent's to divide. With cgroup v2 a group that has processes cannot have groups below it
with limits, so there the agent has to be in a leaf called `agent` of what it was given (systemd: `Delegate=yes`,
`DelegateSubgroup=agent`), and guests' groups are its siblings. With v1 each controller has a tree of its own, and
guests' groups are below the agent's. An agent in a root group has been given nothing.

A machine that lets us limit nothing is no reason to run no guest: what could not be done is said, not raised.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LEAF = "agent"
PREFIX = "vm-"
CONTROLLERS = ("memory", "pids", "cpu")
_PROCS = "cgroup.procs"
_WITH_SWAP = frozenset({"memory.swap.max", "memory.memsw.limit_in_bytes"})  # of kernels that account for it
_LEAF_WEIGHT = 10_000  # what decides and answers comes before guests, as its niceness has it without groups
_SHARES_PER_WEIGHT = 1024 / 100  # both are what an ordinary group has
_REMOVE_DEADLINE_S = 2.0
_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one guest: QEMU, its TPM, and whatever they may start."""

    memory_bytes: int
    pids: int
    cpu_weight: int  # 100 is what an ordinary group has

    def values(self, controller: str, *, is_v2: bool) -> Sequence[tuple[str, int]]:
        """The files of a controller, and what is written into them, one after the other.

        Nothing of a guest is swapped out: else it takes all of the host's swap space beside its memory. With v1 the
        limit of both together is never below that of memory, which may grow.
        """
        match controller:
            case "memory" if is_v2:
                return [("memory.max", self.memory_bytes), ("memory.swap.max", 0)]
            case "memory":
                return [
                    ("memory.memsw.limit_in_bytes", -1),
                    ("memory.limit_in_bytes", self.memory_bytes),
                    ("memory.memsw.limit_in_bytes", self.memory_bytes),
                ]
            case "pids":
                return [("pids.max", self.pids)]
            case _ if is_v2:
                return [("cpu.weight", self.cpu_weight)]
        return [("cpu.shares", round(self.cpu_weight * _SHARES_PER_WEIGHT))]


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in which groups are made, and which controllers they have."""

    folder: Path
    controllers: tuple[str, ...]
    is_v2: bool


@dataclass(frozen=True, slots=True)
class Groups:
    """Where this agent makes its guests' groups. Every method blocks, briefly."""

    places: tuple[Place, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """What cannot be limited here."""
        present = {controller for place in self.places for controller in place.controllers}
        return tuple(controller for controller in CONTROLLERS if controller not in present)

    def create(self, name: str, limits: Limits) -> str:
        """Make the guest's group, or set its limits anew; says in one sentence what could not be done."""
        return next(filter(None, [_limit(place, name, limits) for place in self.places]), "")

    def joiner(self, name: str, report: Callable[[str], None]) -> Callable[[int], None]:
        """What puts a process into the guest's group; it never raises, and reports where that cannot be done."""

        def join(pid: int) -> None:
            for place in self.places:
                group = place.folder / f"{PREFIX}{name}"
                try:
                    (group / _PROCS).write_text(str(pid))
                except ProcessLookupError:
                    return  # it has ended
                except OSError as error:
                    report(f"it cannot join {group}: {error.strerror}")

        return join

    def remove(self, name: str) -> None:
        """Remove the guest's group, whose processes have ended; the kernel may take a moment to bury them."""
        end = time.monotonic() + _REMOVE_DEADLINE_S
        for place in self.places:
            group = place.folder / f"{PREFIX}{name}"
            while group.exists():
                try:
                    group.rmdir()
                except OSError:
                    if time.monotonic() > end:
                        break  # the next sweep removes it
                    time.sleep(_POLL_S)

    def sweep(self, known: Collection[str]) -> list[str]:
        """Remove the groups that an earlier agent left for guests which are not here any more."""
        removed = []
        for place in self.places:
            for group in place.folder.glob(f"{PREFIX}*"):
                if group.name.removeprefix(PREFIX) not in known:
                    with suppress(OSError):
                        group.rmdir()
                        removed.append(str(group))
        return removed


def _limit(place: Place, name: str, limits: Limits) -> str:
    """Each limit as far as it goes, whatever becomes of the others; the first complaint."""
    group, complaints = place.folder / f"{PREFIX}{name}", list[str]()
    try:
        group.mkdir(exist_ok=True)
    except OSError as error:
        return f"the control group {group} cannot be set: {error.strerror}"
    for controller in place.controllers:
        for file, value in limits.values(controller, is_v2=place.is_v2):
            if file in _WITH_SWAP and not (group / file).exists():
                continue
            try:
                (group / file).write_text(str(value))
            except OSError as error:
                complaints.append(f"the control group {group} cannot be set: {file}: {error.strerror}")
    return next(iter(complaints), "")


def find_groups(proc: Path = Path("/proc/self")) -> Groups:
    """Where the agent may make groups on this machine; without any place where it may not."""
    own = dict(_own_paths((proc / "cgroup").read_text()))
    places = []
    for mount, root, options, is_v2 in _mounts((proc / "mountinfo").read_text()):
        names = ("",) if is_v2 else tuple(name for name in CONTROLLERS if name in options)
        for name in names:
            path = own.get(name, "/")
            if path == "/" or not Path(path).is_relative_to(root):
                continue
            folder = mount / Path(path).relative_to(root)
            place = v2_place(folder) if is_v2 else _v1_place(folder, name)
            if place is not None and place not in places:
                places.append(place)
    return Groups(tuple(places))


def _v1_place(folder: Path, controller: str) -> Place | None:
    return Place(folder, (controller,), is_v2=False) if os.access(folder, os.W_OK) else None


def v2_place(leaf: Path) -> Place | None:
    """The parent of the agent's leaf, with its controllers handed down to its groups."""
    if leaf.name != LEAF:
        return None
    folder, given = leaf.parent, list[str]()
    with suppress(OSError):
        offered = (folder / "cgroup.controllers").read_text().split()
        for controller in (name for name in CONTROLLERS if name in offered):
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
            given.append(controller)
        if "cpu" in given:
            (leaf / "cpu.weight").write_text(str(_LEAF_WEIGHT))
    return Place(folder, tuple(given), is_v2=True) if given else None


def _own_paths(text: str) -> Iterator[tuple[str, str]]:
    """(controller, path) of each line of /proc/PID/cgroup; the controller of v2 is empty."""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            yield name, path


def _mounts(text: str) -> Iterator[tuple[Path, str, frozenset[str], bool]]:
    """(mount point, root within the hierarchy, options, whether it is v2) of each hierarchy in mountinfo."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        fields = left.split()
        if kind in ("cgroup", "cgroup2"):
            yield Path(fields[4]), fields[3], frozenset(options.split(",")), kind == "cgroup2"
