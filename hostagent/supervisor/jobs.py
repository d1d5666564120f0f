"""Which job goes on when the table decides anew, and which gives way. Pure."""

from __future__ import annotations

from vdc.model.endophyte import CopyStage
from vdc.protection.decide import Decision
from vdc.protection.table import Action, State

# Jobs that end the process themselves: its end is no news while they run, and they are never left half-done.
UNDISTURBED = frozenset({Action.POWER_DOWN, Action.SWITCH_OFF, Action.DISCARD, Action.SWEEP})
CALLS_OFF = (Action.ENTER, Action.ADOPT_EPOCH)  # where they fail they give the secondary up themselves
SAME_WORK = {
    Action.TAKE_OVER: Action.PROMOTE,
    Action.LEAVE: Action.GO_ALONE,
    Action.ADOPT_EPOCH: Action.GO_ALONE,
}
URGENT = (Action.PROMOTE, Action.TAKE_OVER, Action.GO_ALONE, Action.LEAVE, Action.MARK)
INTERRUPTS = (
    *URGENT,
    Action.NOTE,
    Action.DISCARD,
    Action.ISOLATE,
)  # even a job that has only to tell what it did
# A snapshot lets go of the lock for these: they cannot wait for QEMU, or end what it is taken of.
OVER_SNAPSHOTS = frozenset({*INTERRUPTS, Action.SWEEP})
STAGES = {  # as which a copy is remembered where a row only notes something
    State.P_DEAD: CopyStage.DEAD,
    State.S_DEAD: CopyStage.DEAD,
    State.S_FAILED: CopyStage.FAILED,
    State.S_CHECKPOINTING: CopyStage.CHECKPOINTING,
    State.S_LOCKSTEP: CopyStage.LOCKSTEP,
    State.P_LOCKSTEP: CopyStage.LOCKSTEP,
}
_LASTING = (Action.RETRY_DISK,)  # it waits in the state that it leads to


def is_same_work(action: Action, running: Action | None) -> bool:
    """Whether a running job already does what is decided now: its commit may show before the job is done."""
    return running is not None and SAME_WORK.get(action, action) == SAME_WORK.get(running, running)


def leads_to(decision: Decision) -> frozenset[State]:
    """The states in which a job of this decision has done what it was for, and only notes and tells it."""
    if decision.action in _LASTING:
        return frozenset()
    beyond = {State.P_RUNNING} if decision.action is Action.PROMOTE else set()
    return frozenset({decision.row.to} | beyond)
