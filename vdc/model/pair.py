"""The arbitration record of an Endophyte: who may speak, under which epoch.

It is changed by compare-and-swap only. `epoch` grows with every change of `primary` or `secondary`; whoever
acts for a smaller epoch is fenced. `sync == IN_SYNC` is the only state in which the secondary may be
promoted without asking the primary, and it is withdrawn before the primary goes on alone.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from vdc.model.base import Record
from vdc.model.ids import DnsLabel


class SyncState(StrEnum):
    """How far the secondary's copy may be trusted."""

    NONE = "none"  # there is no secondary
    SYNCING = "syncing"  # a secondary is being filled; it must never be promoted
    IN_SYNC = "in_sync"  # three checkpoints completed; the secondary may be promoted


MAX_OLDER_COPIES = 2  # a Pair keeps note of; the primary records its writes for each


class OlderCopy(Record):
    """Disks that a former secondary kept: complete as of `epoch`, and the primary records what it writes since."""

    host: DnsLabel
    epoch: int

    @property
    def record_name(self) -> str:
        """What the primary calls its record of the writes since (Observed.older)."""
        return f"since-e{self.epoch}-{self.host}"


class Pair(Record):
    """Who may speak for one Endophyte. Ports of its replication channels follow from `slot`."""

    name: DnsLabel
    uid: str
    epoch: int = Field(ge=1)
    primary: DnsLabel
    secondary: DnsLabel | None = None
    sync: SyncState = SyncState.NONE
    spares: tuple[DnsLabel, ...] = ()
    slot: int = Field(ge=0, lt=2700)
    lineage: int = Field(default=0, ge=0)  # raised where a human overrode what the cluster could not decide
    request_id: str = ""  # of the change that wrote this version; tells "was it ours" after a time-out
    reason: str = ""  # one sentence for people: why the last change was made
    changed_at: str = ""  # RFC 3339, for people only; nothing is decided by it
    unprotected_since: str = ""  # RFC 3339, for people; empty while in sync
    older: tuple[OlderCopy, ...] = ()  # a hint where the next copy is cheap; both sides prove it before use

    def keeps_older(self, host: str, epoch: int) -> bool:
        """Whether `host` may keep its disks as of `epoch`."""
        return any((older.host, older.epoch) == (host, epoch) for older in self.older)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that run a copy now."""
        return (self.primary, self.secondary) if self.secondary else (self.primary,)
