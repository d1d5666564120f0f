"""Wishes of the operator about hosts and about where a VM runs, and how far they have come.

A drain is a record of its own beside the host's, which its agent rewrites at every start. A move stands in the
Endophyte's desired state. Both are levels, not messages: whoever leads works on them until they are reached.
"""

from __future__ import annotations

from enum import StrEnum

from vdc.model.base import Record
from vdc.model.ids import DnsLabel


class Maintenance(Record):
    """A host is drained: nothing is placed there, and what is there moves away."""

    host: DnsLabel
    since: str  # RFC 3339, for people only
    by: str = ""
    reason: str = ""
    leave_stopped: bool = False  # disks of stopped VMs may stay


class Move(Record):
    """A VM shall run on `to`. Gone from the record once it does, or cannot."""

    to: DnsLabel
    drained: DnsLabel | None = None  # asked for by the drain of this host, and over when that is
    asked_at: str = ""
    by: str = ""


class DrainState(StrEnum):
    """Where one VM stands on its way off a drained host."""

    WAITING = "waiting"  # others have their turn first, or it is not ready
    RUNNING = "running"  # on its way
    BLOCKED = "blocked"  # cannot leave as things are
    STAYS = "stays"  # stopped, its disk stays by the operator's leave


class DrainWay(StrEnum):
    """How it leaves."""

    PROMOTION = "promotion"  # its replica on another host becomes the primary
    MIGRATION = "migration"  # it has no replica: it is given one for the time of the move
    REPLICA = "replica"  # the replica is made anew on another host
    SPARE = "spare"  # another host is held ready
    DISK = "disk"  # it is stopped: nothing but its disks is there
    NONE = "none"


class DrainItem(Record):
    """One VM with a part on a drained host."""

    name: DnsLabel
    way: DrainWay
    state: DrainState
    to: str | None = None
    sentence: str = ""


class DrainReport(Record):
    """`vdc node drain -o json`: the wish, and what is left to do for it."""

    host: DnsLabel
    wish: Maintenance | None
    alive: bool
    items: tuple[DrainItem, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def left(self) -> tuple[DrainItem, ...]:
        """What has to leave yet."""
        return tuple(item for item in self.items if item.state is not DrainState.STAYS)
