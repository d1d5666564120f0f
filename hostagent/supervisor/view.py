"""From this host's copy, the mirror and the heartbeats to the Snapshot that decisions are made of, and back
to the Observed record that the others see."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from hostagent.supervisor.copy import Copy
from hostagent.supervisor.resync import is_kept
from vdc.model.endophyte import CheckpointFigures, CopyRole, CopyStage, Endophyte, Observed
from vdc.model.pair import Pair
from vdc.protection.snapshot import CopyView, PeerView, Snapshot

_DEFAULT_BUDGET_MS = 2_000
_CHECKPOINTED = (CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP)


def snapshot(copy: Copy, *, retry_due: bool) -> Snapshot:
    """Everything that is known at this moment."""
    host = copy.host
    endophyte, pair = host.mirror.endophyte(copy.name), host.mirror.pair(copy.name)
    if pair is not None and endophyte is not None and pair.uid != endophyte.uid:
        pair = None
    peer = peer_of(pair, host.name)
    budget = endophyte.manifest.spec.protection.checkpoint_budget_ms if endophyte else _DEFAULT_BUDGET_MS
    return Snapshot(
        me=host.name,
        endophyte=endophyte,
        pair=pair,
        copy=copy_view(copy, pair, retry_due=retry_due),
        peer=_peer_view(copy, pair, peer),
        peer_observed=_observed_of(copy, endophyte, peer),
        store_silent_ms=host.store_silent_ms(),
        limits=host.limits(budget),
        is_orphan=host.mirror.is_orphan(copy.name, copy.state.uid),
    )


def peer_of(pair: Pair | None, me: str) -> str | None:
    """The host of the other copy."""
    if pair is None or me not in pair.hosts:
        return None
    return pair.secondary if pair.primary == me else pair.primary


def copy_view(copy: Copy, pair: Pair | None, *, retry_due: bool) -> CopyView:
    """This host's copy. A copy of an earlier VM of the same name has no part in this pair."""
    state, now = copy.state, copy.host.clock.boottime_s()
    is_other = pair is not None and state.uid not in ("", pair.uid)
    role = state.role
    if is_other and pair is not None:
        # Make it a stray whatever the record says of this host: its role is never the record's.
        role = CopyRole.SECONDARY if pair.primary == copy.host.name else CopyRole.PRIMARY
    return CopyView(
        role=role,
        stage=state.stage,
        epoch=0 if is_other else state.epoch,
        alive=copy.is_alive and not is_other,
        has_files=copy.has_files and not is_kept(copy),
        restarts=state.restarts,
        colo_ended=copy.colo_ended,
        checkpoints=copy.meter.count,
        lockstep_for_s=now - copy.lockstep_since_s if copy.lockstep_since_s is not None else 0.0,
        stalled_ms=copy.quiet_ms() if _must_checkpoint(copy) else 0.0,
        guest_reset=copy.guest_reset,
        guest_crashed=copy.guest_crashed,
        powered_off=copy.powered_off.is_set(),
        disk_failed=bool(copy.trouble.here),
        peer_disk_failed=bool(copy.trouble.there),
        disk_stopped=copy.trouble.is_stopped,
        disk_full=copy.trouble.is_full,
        retry_due=retry_due,
    )


def _must_checkpoint(copy: Copy) -> bool:
    """Whether silence would be a stall: not while a comparison holds them up, nor while nothing can be heard."""
    return copy.state.stage in _CHECKPOINTED and not copy.is_held and not copy.needs_session


def _peer_view(copy: Copy, pair: Pair | None, peer: str | None) -> PeerView:
    """Silence counts once the heartbeats have judged it suspicious; until then it is 0."""
    if peer is None or pair is None:
        return PeerView()
    beats = copy.host.heartbeats
    suspect = beats.suspect_ms(peer)

    def silent(is_suspected: bool, silent_ms: float) -> float:
        return max(silent_ms, suspect + 1) if is_suspected else 0.0

    return PeerView(
        management_silent_ms=silent(
            beats.is_suspected(peer, "management"), beats.silent_ms(peer, "management")
        ),
        replication_silent_ms=silent(
            beats.is_suspected(peer, "replication") or beats.is_deaf(peer),
            beats.silent_ms(peer, "replication"),
        ),
        suspect_ms=suspect,
        copy_dead=beats.says_dead(peer, pair.uid, pair.epoch),
    )


def _observed_of(copy: Copy, endophyte: Endophyte | None, peer: str | None) -> Observed | None:
    if peer is None or endophyte is None:
        return None
    observed = copy.host.mirror.observed(copy.name, peer)
    return observed if observed is not None and observed.uid == endophyte.uid else None


def observed(copy: Copy, sentence: str, error: str) -> Observed:
    """What this host tells the others of its copy."""
    state, meter = copy.state, copy.meter
    is_copying = state.stage is CopyStage.ENTERING
    beats = copy.host.heartbeats if state.role is CopyRole.PRIMARY else None
    return Observed(
        name=copy.name,
        host=copy.host.name,
        uid=state.uid,
        epoch=state.epoch,
        role=state.role,
        stage=state.stage,
        pid=copy.pid,
        qemu=_qemu_word(copy),
        checkpoints=CheckpointFigures(
            count=meter.count,
            pause_ms_p50=meter.p50_ms,
            pause_ms_p99=meter.p99_ms,
            last=_last_checkpoint(copy),
        ),
        progress=copy.copying.progress if is_copying else None,
        sentence=f"keeps disks as of epoch {copy.older.epoch}" if copy.older and is_kept(copy) else sentence,
        error=error,
        restarts=state.restarts,
        listening_epoch=state.listening_epoch,
        machine=state.machine,
        incarnation=copy.host.record.incarnation,
        unreachable=beats.unsettled() if beats else (),
        settling=beats.settling() if beats else (),
        copying=copy.copying.shown if is_copying else None,
        older=state.older,
        resumes=state.resumes,
        program=copy.program,
        agent=copy.agent.status,
    )


def _last_checkpoint(copy: Copy) -> str | None:
    """When the latest one completed, RFC 3339, for people."""
    if copy.meter.last_at_s is None:
        return None
    at = datetime.now(UTC) - timedelta(seconds=time.monotonic() - copy.meter.last_at_s)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _qemu_word(copy: Copy) -> str:
    """QEMU's own word for its state; the short stops of checkpoints are not a pause."""
    if not copy.is_alive:
        return ""
    is_stepping = copy.state.stage in _CHECKPOINTED and (copy.is_held or copy.quiet_ms() < _DEFAULT_BUDGET_MS)
    return "running" if is_stepping else copy.qemu_word
