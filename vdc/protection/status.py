"""The status that users see, derived from the records: pure, the same on every host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vdc.model.endophyte import (
    CheckpointFigures,
    CopyRole,
    CopyStage,
    CopyStatus,
    Endophyte,
    EndophyteStatus,
    Observed,
    Phase,
    Protection,
    RunState,
)
from vdc.model.guest import ProgramState, ProgramStatus
from vdc.model.pair import Pair, SyncState
from vdc.model.units import format_size

STOPPED_BY_DISK = "io-error"  # QEMU's word for a guest that stands still until its disk takes what it refused
_UP = (
    CopyStage.RUNNING, CopyStage.ENTERING, CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP,
    CopyStage.PROMOTING, CopyStage.LEAVING,
)  # fmt: skip


def endophyte_status(
    endophyte: Endophyte,
    pair: Pair | None,
    copies: Iterable[Observed],
    alive: frozenset[str],
    problem: str = "",
    *,
    known: frozenset[str] | None = None,
) -> EndophyteStatus:
    """Derive phase, protection and the sentence. `problem` is why the leader could not place it.

    `known` are the hosts that have not been removed: a VM whose primary's host is none of them is lost.
    """
    by_host = {copy.host: copy for copy in copies if copy.uid == endophyte.uid}
    primary = by_host.get(pair.primary) if pair else None
    is_lost = pair is not None and known is not None and pair.primary not in known
    phase = _phase(endophyte, pair, primary, alive)
    if is_lost and phase is Phase.UNKNOWN:
        phase = Phase.FAILED
    protection = _protection(endophyte, pair, by_host, phase)
    program = primary.program if primary and phase in (Phase.RUNNING, Phase.PAUSED) else None
    return EndophyteStatus(
        moving_to=endophyte.move.to if endophyte.move else None,
        move_problem=endophyte.move_problem,
        phase=phase,
        protection=protection,
        epoch=pair.epoch if pair else 0,
        primary=_copy_status(pair.primary, primary, alive) if pair else None,
        secondary=_copy_status(pair.secondary, by_host.get(pair.secondary), alive)
        if pair and pair.secondary
        else None,
        spares=pair.spares if pair else (),
        addresses=tuple(nic.address for nic in endophyte.nics),
        mac=endophyte.nics[0].mac if endophyte.nics else "",
        nics=endophyte.nics,
        checkpoints=primary.checkpoints if primary else CheckpointFigures(),
        sentence=f"lost with its host {pair.primary}, which was removed; it can be deleted"
        if is_lost and pair is not None
        else _sentence(pair, by_host, phase, protection, problem) + _of_program(program),
        program=program,
        firmware=endophyte.firmware,
        agent=primary.agent if primary and phase is Phase.RUNNING else None,
        unprotectedSince=_unprotected_since(endophyte, pair),
    )


def _phase(endophyte: Endophyte, pair: Pair | None, primary: Observed | None, alive: frozenset[str]) -> Phase:
    is_off = primary is None or primary.stage in (CopyStage.ABSENT, CopyStage.DEAD)
    if endophyte.deleting:
        return Phase.PENDING if endophyte.successor else Phase.DELETING
    if pair is None:
        return Phase.STOPPED if endophyte.run is RunState.STOPPED else Phase.PENDING
    if pair.primary not in alive:
        return Phase.UNKNOWN
    if endophyte.run is RunState.STOPPED:
        return Phase.STOPPED if is_off else Phase.STOPPING
    if primary is None or is_off or primary.stage is CopyStage.PREPARING:
        return Phase.STARTING
    if primary.role is CopyRole.SECONDARY:  # the record has made it the primary; its agent is about to say so
        return Phase.RUNNING if primary.stage is CopyStage.LOCKSTEP else Phase.STARTING
    if primary.qemu == STOPPED_BY_DISK:
        return Phase.PAUSED
    if primary.stage in _UP:
        return Phase.RUNNING
    by_stage = {CopyStage.PAUSED: Phase.PAUSED, CopyStage.ISOLATED: Phase.ISOLATED}
    return by_stage.get(primary.stage, Phase.FAILED)


def _protection(
    endophyte: Endophyte, pair: Pair | None, by_host: Mapping[str, Observed], phase: Phase
) -> Protection:
    if pair is not None and pair.secondary is not None and phase is Phase.RUNNING:
        if pair.sync is SyncState.SYNCING:
            return Protection.SYNCING
        stages = {host: by_host[host].stage for host in pair.hosts if host in by_host}
        if all(stages.get(host) is CopyStage.LOCKSTEP for host in pair.hosts):
            return Protection.LOCKSTEP
        return Protection.DEGRADED
    if endophyte.wants_protection and phase in (Phase.RUNNING, Phase.ISOLATED, Phase.UNKNOWN):
        return Protection.DEGRADED
    return Protection.NONE


def _unprotected_since(endophyte: Endophyte, pair: Pair | None) -> str | None:
    """As long as protection is wanted and the record trusts no secondary."""
    if pair is None or not endophyte.wants_protection or pair.sync is SyncState.IN_SYNC:
        return None
    return pair.unprotected_since or None


def _copy_status(host: str, observed: Observed | None, alive: frozenset[str]) -> CopyStatus:
    if observed is None:
        return CopyStatus(host=host, stage="unknown" if host not in alive else "absent")
    if host not in alive:
        return CopyStatus(host=host, stage="unknown", qemu="unknown")
    return CopyStatus(
        host=host, pid=observed.pid, qemu=observed.qemu, stage=observed.stage, progress=observed.progress,
        copying=observed.copying,
    )  # fmt: skip


def _sentence(
    pair: Pair | None, by_host: Mapping[str, Observed], phase: Phase, protection: Protection, problem: str
) -> str:
    if pair is None:
        words = {Phase.STOPPED: "stopped", Phase.DELETING: "being deleted"}
        return problem or words.get(phase, "waits to be placed")
    if phase is Phase.UNKNOWN:
        return _unknown_sentence(pair, by_host)
    primary = by_host.get(pair.primary)
    if protection is Protection.LOCKSTEP:
        spares = f"; spare {', '.join(pair.spares)}" if pair.spares else "; no spare"
        return f"primary on {pair.primary} in lockstep with {pair.secondary}{spares}"
    sentence = primary.sentence if primary else f"waits for {pair.primary}"
    if primary and primary.copying:
        copying = primary.copying
        done, total = format_size(copying.done_bytes), format_size(copying.total_bytes)
        sentence = f"{sentence}: {copying.what} {done} of {total}"
    error = next((copy.error for copy in by_host.values() if copy.error and copy.host in pair.hosts), "")
    if error:
        sentence = f"{sentence}: {error}"
    if protection is Protection.DEGRADED and pair.secondary is None and problem:
        sentence = f"{sentence}; {problem}"
    return sentence


def _of_program(program: ProgramStatus | None) -> str:
    """What is not well with it."""
    if program is None or (program.state == ProgramState.RUNNING and program.ready):
        return ""
    words = {
        ProgramState.STARTING: "the program starts",
        ProgramState.RUNNING: "the program is not ready",
        ProgramState.WAITING: "the program waits to be started again",
        ProgramState.ENDED: "the program has ended",
        ProgramState.UNKNOWN: "how the program does is not known",
    }
    known = {str(state): told for state, told in words.items()}
    code = "" if program.exit_code is None else f"exit code {program.exit_code}"
    why = program.reason or (code if program.state != ProgramState.RUNNING else "")
    return "; " + ": ".join(part for part in (known.get(program.state, program.state), why) if part)


def _unknown_sentence(pair: Pair, by_host: Mapping[str, Observed]) -> str:
    sentence = f"host {pair.primary} does not answer; it is not known whether the guest runs"
    secondary = by_host.get(pair.secondary) if pair.secondary else None
    if secondary is None or secondary.epoch != pair.epoch or pair.sync is not SyncState.IN_SYNC:
        return sentence
    return f"{sentence}; {secondary.host}: {secondary.sentence}"
