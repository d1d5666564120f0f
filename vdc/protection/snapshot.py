"""What one host knows of one Endophyte at one moment: the input of every decision."""

from __future__ import annotations

from dataclasses import dataclass, field

from vdc.model.endophyte import CopyRole, CopyStage, Endophyte, Observed, RunState
from vdc.model.pair import Pair, SyncState
from vdc.protection.timing import store_silent_after_ms

REQUIRED_CHECKPOINTS = 3
REQUIRED_LOCKSTEP_S = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The durations that decisions depend on, in milliseconds (docs/failover.md)."""

    suspect_ms: float = 200.0
    secondary_delay_ms: float = 30.0
    isolated_pause_ms: float = 8_000.0
    checkpoint_budget_ms: float = 2_000.0
    stall_head_start_ms: float = 500.0  # of the primary, where both sides only see that nothing completes


@dataclass(frozen=True, slots=True)
class CopyView:
    """This host's copy. `ABSENT` where it has none."""

    role: CopyRole | None = None
    stage: CopyStage = CopyStage.ABSENT
    epoch: int = 0
    alive: bool = False  # its QEMU process exists
    has_files: bool = False  # disks or other remains of a copy lie on this host
    restarts: int = 0
    colo_ended: bool = False  # QEMU itself left lockstep (COLO_EXIT)
    checkpoints: int = 0
    lockstep_for_s: float = 0.0
    stalled_ms: float = 0.0  # how long no checkpoint has completed, in lockstep
    guest_crashed: bool = False  # the console shows a kernel crash, in lockstep as the secondary
    guest_reset: bool = False  # the guest was reset, shut down or crashed while in lockstep
    powered_off: bool = False  # the guest shut itself down
    disk_failed: bool = False  # in lockstep: this host's disk refused something
    peer_disk_failed: bool = False  # primary in lockstep: the secondary's disk refused a write
    disk_stopped: bool = False  # primary, alone: the guest stands still because its disk refused something
    disk_full: bool = False  # as above, and what is missing is room
    retry_due: bool = False  # the back-off after a failed start has passed


@dataclass(frozen=True, slots=True)
class PeerView:
    """The host of the other copy, as heartbeats and echoes tell. Silence is measured, never called death (I6)."""

    management_silent_ms: float = 0.0
    replication_silent_ms: float = 0.0
    suspect_ms: float = 200.0  # `Limits.suspect_ms`, widened by the jitter measured on this link
    copy_dead: bool = False  # its own agent says that its copy under this epoch is gone


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a decision may use."""

    me: str
    endophyte: Endophyte | None
    pair: Pair | None
    copy: CopyView = CopyView()
    peer: PeerView = PeerView()
    peer_observed: Observed | None = None
    store_silent_ms: float = 0.0
    limits: Limits = field(default_factory=Limits)
    is_orphan: bool = False  # the store knows neither this VM nor that it was deleted

    @property
    def role(self) -> CopyRole | None:
        """What the arbitration record makes this host."""
        if self.pair is None:
            return None
        if self.pair.primary == self.me:
            return CopyRole.PRIMARY
        return CopyRole.SECONDARY if self.pair.secondary == self.me else None

    @property
    def is_power_wanted(self) -> bool:
        """Whether the guest should be executing or paused, and not off."""
        endophyte = self.endophyte
        return endophyte is not None and not endophyte.deleting and endophyte.run is not RunState.STOPPED

    @property
    def is_restart_wanted(self) -> bool:
        """Whether the running copy is older than the last `vdc restart`."""
        return self.endophyte is not None and self.copy.restarts < self.endophyte.restarts

    @property
    def is_stop_wanted(self) -> bool:
        """Whether a running primary has to be powered down."""
        return not self.is_power_wanted or self.is_restart_wanted

    @property
    def is_protection_wanted(self) -> bool:
        """Whether a secondary should exist."""
        return self.endophyte is not None and self.endophyte.wants_secondary and not self.is_stop_wanted

    @property
    def is_in_sync(self) -> bool:
        """Whether the record trusts the secondary under the epoch that this copy acts for."""
        pair = self.pair
        return pair is not None and pair.sync is SyncState.IN_SYNC and pair.epoch == self.copy.epoch

    @property
    def is_peer_silent(self) -> bool:
        """Nothing of the peer's host on either network for longer than jitter explains."""
        peer = self.peer
        return min(peer.management_silent_ms, peer.replication_silent_ms) > peer.suspect_ms

    @property
    def is_replication_cut(self) -> bool:
        """The replication network alone is silent: lockstep cannot go on, yet both hosts live."""
        return self.peer.replication_silent_ms > self.peer.suspect_ms and not self.is_peer_silent

    @property
    def is_store_silent(self) -> bool:
        """The store has not answered for longer than an election and two renewals of a lease take."""
        return self.store_silent_ms > store_silent_after_ms(self.limits.suspect_ms)
