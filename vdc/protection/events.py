"""What can be the case for a pair, as predicates over a Snapshot. An event is a fact, never a message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from vdc.model.endophyte import CopyRole, CopyStage, RunState
from vdc.model.pair import SyncState
from vdc.protection.snapshot import REQUIRED_CHECKPOINTS, REQUIRED_LOCKSTEP_S, Snapshot


class Event(StrEnum):
    """Names of the predicates below."""

    ALWAYS = "always"
    RECORD_UNKNOWN = "record_unknown"
    RECORD_OLDER = "record_older"
    ORPHANED = "orphaned"
    TOOK_OVER_ALREADY = "took_over_already"
    WON_AND_DIED = "won_and_died"
    LEFTOVERS = "leftovers"
    STOP_WANTED = "stop_wanted"
    DELETION_WANTED = "deletion_wanted"
    CHECKPOINT_SEEN = "checkpoint_seen"
    PAUSE_WANTED = "pause_wanted"
    PROTECTION_UNWANTED = "protection_unwanted"
    HAS_SECONDARY = "has_secondary"
    SECONDARY_MAY_SPEAK = "secondary_may_speak"
    SECONDARY_READY = "secondary_ready"
    SECONDARY_USELESS = "secondary_useless"
    SECONDARY_WITHDRAWN = "secondary_withdrawn"
    EPOCH_MOVED = "epoch_moved"
    IN_SYNC = "in_sync"
    PROVEN = "proven"
    STALLED = "stalled"
    STALLED_LATER = "stalled_later"
    QEMU_GONE = "qemu_gone"
    QEMU_LEFT = "qemu_left"
    GUEST_POWERED_OFF = "guest_powered_off"
    GUEST_RESET = "guest_reset"
    GUEST_CRASHED = "guest_crashed"
    PEER_COPY_DEAD = "peer_copy_dead"
    PEER_LOST = "peer_lost"
    PEER_LOST_LATER = "peer_lost_later"
    PEER_LOST_UNDECIDED = "peer_lost_undecided"
    PEER_SILENT_LONG = "peer_silent_long"
    STORE_SILENT = "store_silent"
    CUT_OFF = "cut_off"
    RETRY_DUE = "retry_due"
    DISK_FAILED = "disk_failed"
    PEER_DISK_FAILED = "peer_disk_failed"
    DISK_STOPPED = "disk_stopped"
    DISK_FULL = "disk_full"


def _has_secondary(s: Snapshot) -> bool:
    return s.pair is not None and s.pair.secondary is not None


def _secondary_useless(s: Snapshot) -> bool:
    """The secondary's own agent says that its copy under this epoch is gone or could not be made."""
    if not _has_secondary(s):
        return False
    assert s.pair is not None
    observed = s.peer_observed
    said_so = (
        observed is not None
        and observed.epoch == s.pair.epoch
        and observed.role is CopyRole.SECONDARY
        and observed.stage in (CopyStage.DEAD, CopyStage.FAILED)
    )
    return said_so or s.peer.copy_dead


def _secondary_ready(s: Snapshot) -> bool:
    pair, observed = s.pair, s.peer_observed
    return (
        pair is not None
        and pair.sync is SyncState.SYNCING
        and observed is not None
        and observed.stage is CopyStage.READY
        and observed.epoch == pair.epoch
    )


def _took_over_already(s: Snapshot) -> bool:
    """Our own promotion is in the record (the answer to the commit was lost, or the agent died after it)."""
    return s.role is CopyRole.PRIMARY and s.copy.role is CopyRole.SECONDARY and s.copy.alive


def _won_and_died(s: Snapshot) -> bool:
    """As TOOK_OVER_ALREADY, but the copy ended before that was remembered. Its disks are the current ones."""
    pair, copy = s.pair, s.copy
    is_ours = s.role is CopyRole.PRIMARY and copy.role is CopyRole.SECONDARY and not copy.alive
    return is_ours and pair is not None and 0 < copy.epoch < pair.epoch


def _proven(s: Snapshot) -> bool:
    return (
        s.copy.checkpoints >= REQUIRED_CHECKPOINTS
        and s.copy.lockstep_for_s >= REQUIRED_LOCKSTEP_S
        and not (s.peer_observed is not None and s.peer_observed.error)
    )


def _peer_lost(s: Snapshot) -> bool:
    return s.is_peer_silent or s.is_replication_cut


def _peer_lost_later(s: Snapshot) -> bool:
    """As PEER_LOST, but where only replication is cut the primary is given a head start."""
    if s.is_peer_silent:
        return True
    head_start = s.peer.suspect_ms + s.limits.secondary_delay_ms + s.limits.suspect_ms
    return s.is_replication_cut and s.peer.replication_silent_ms > head_start


def _cut_off(s: Snapshot) -> bool:
    """Nobody can be asked: the store has been silent long enough, and so has the other copy."""
    return s.store_silent_ms > s.limits.isolated_pause_ms and _peer_lost(s)


PREDICATES: Mapping[Event, Callable[[Snapshot], bool]] = {
    Event.ALWAYS: lambda s: True,
    Event.RECORD_UNKNOWN: lambda s: s.is_store_silent,
    Event.RECORD_OLDER: lambda s: s.pair is not None and s.pair.epoch < s.copy.epoch,
    Event.ORPHANED: lambda s: s.is_orphan and (s.copy.alive or s.copy.has_files),
    Event.TOOK_OVER_ALREADY: _took_over_already,
    Event.WON_AND_DIED: _won_and_died,
    Event.LEFTOVERS: lambda s: s.copy.has_files and not s.copy.alive,
    Event.STOP_WANTED: lambda s: s.is_stop_wanted if s.copy.alive else not s.is_power_wanted,
    Event.DELETION_WANTED: lambda s: s.endophyte is not None and s.endophyte.deleting and s.copy.has_files,
    Event.CHECKPOINT_SEEN: lambda s: s.copy.checkpoints > 0,
    Event.PAUSE_WANTED: lambda s: s.endophyte is not None and s.endophyte.run is RunState.PAUSED,
    Event.PROTECTION_UNWANTED: lambda s: _has_secondary(s) and not s.is_protection_wanted,
    Event.HAS_SECONDARY: _has_secondary,
    Event.SECONDARY_MAY_SPEAK: lambda s: (
        s.pair is not None and s.pair.sync is SyncState.IN_SYNC and not _secondary_useless(s)
    ),
    Event.SECONDARY_READY: _secondary_ready,
    Event.SECONDARY_USELESS: _secondary_useless,
    Event.SECONDARY_WITHDRAWN: lambda s: s.pair is not None and s.pair.epoch > s.copy.epoch,
    Event.EPOCH_MOVED: lambda s: s.pair is not None and s.pair.epoch > s.copy.epoch,
    Event.IN_SYNC: lambda s: s.pair is not None and s.pair.sync is SyncState.IN_SYNC,
    Event.PROVEN: _proven,
    Event.STALLED: lambda s: s.copy.stalled_ms > s.limits.checkpoint_budget_ms,
    Event.STALLED_LATER: lambda s: (
        s.copy.stalled_ms > s.limits.checkpoint_budget_ms + s.limits.stall_head_start_ms
    ),
    Event.QEMU_GONE: lambda s: not s.copy.alive,
    Event.QEMU_LEFT: lambda s: s.copy.colo_ended,
    Event.GUEST_POWERED_OFF: lambda s: (
        s.copy.powered_off and s.endophyte is not None and not s.is_stop_wanted
    ),
    Event.GUEST_RESET: lambda s: s.copy.guest_reset,
    Event.GUEST_CRASHED: lambda s: s.copy.guest_crashed,
    Event.PEER_COPY_DEAD: lambda s: s.peer.copy_dead,
    Event.PEER_LOST: _peer_lost,
    Event.PEER_LOST_LATER: _peer_lost_later,
    Event.PEER_LOST_UNDECIDED: lambda s: s.is_store_silent and s.is_peer_silent,
    Event.PEER_SILENT_LONG: lambda s: (
        min(s.peer.management_silent_ms, s.peer.replication_silent_ms) > s.limits.isolated_pause_ms
    ),
    Event.STORE_SILENT: lambda s: s.is_store_silent,
    Event.CUT_OFF: _cut_off,
    Event.RETRY_DUE: lambda s: s.copy.retry_due,
    Event.DISK_FAILED: lambda s: s.copy.disk_failed,
    Event.PEER_DISK_FAILED: lambda s: s.copy.peer_disk_failed,
    Event.DISK_STOPPED: lambda s: s.copy.disk_stopped,
    Event.DISK_FULL: lambda s: s.copy.disk_stopped and s.copy.disk_full,
}
