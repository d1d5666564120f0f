"""The actions of the table as lists of steps, in the order in which hostagent/supervisor/{primary,secondary,
copy,supervisor}.py take them. Between any two of them the agent may die, be paused or change its mind.

`SOURCES` ties each list to the code: a unit test checks that what it names stands there in that order.
"""

from __future__ import annotations

from tests.simulation import switch
from tests.simulation.commits import commit, durable
from tests.simulation.outcomes import Outcome, StepFn
from tests.simulation.power import (
    do_discard,
    noted,
    power_down,
    power_off_noted,
    sever,
    start_begins,
    start_disk,
    start_done,
    start_qemu,
    stop_guest,
    switched_off,
)
from tests.simulation.primary import (
    ENTRIES,
    alone_won,
    leave_done,
    leave_qemu,
    leave_remember,
    leave_renew,
    mark_done,
)
from tests.simulation.rules import kept
from tests.simulation.secondary import (
    inherit,
    prepare_begins,
    prepare_discard,
    prepare_done,
    prepare_qemu,
    prepare_waits,
    promote_begins,
    speak_qemu,
    speak_save,
    speak_tap,
    take_over_remember,
    tidy,
    tidy_done,
)
from tests.simulation.world import World
from vdc.model.endophyte import CopyStage
from vdc.protection.table import Action

A = Action
_LEAVE = (leave_remember, leave_qemu, leave_renew, leave_done)
_SPEAK = (speak_qemu, speak_tap, speak_save, tidy, tidy_done)
_GO_ALONE = (commit, durable, alone_won, leave_qemu, leave_renew, leave_done)
_PROMOTE = (promote_begins, commit, durable, *_SPEAK)
STEPS: dict[Action, tuple[StepFn, ...]] = {
    A.START: (start_begins, start_disk, start_qemu, start_done),
    **ENTRIES,  # of ADOPT_EPOCH and ENTER, which have to find their own end when they are called off
    A.MARK: (commit, mark_done),
    A.GO_ALONE: _GO_ALONE,
    A.LEAVE: _LEAVE,
    A.PREPARE: (prepare_discard, prepare_begins, prepare_waits, prepare_qemu, prepare_done),
    A.PROMOTE: _PROMOTE,
    A.TAKE_OVER: (take_over_remember, *_SPEAK),
    A.INHERIT: (inherit,),
    A.DISCARD: (do_discard,),
    A.SWEEP: (do_discard,),
    A.POWER_DOWN: (power_down, switched_off),
    A.SWITCH_OFF: (power_down, switched_off),
    A.ISOLATE: (sever, stop_guest("stands still"), noted(CopyStage.ISOLATED)),
    A.PAUSE: (stop_guest("stands still"), noted(CopyStage.PAUSED)),
    A.RESUME: (stop_guest("runs"), noted(CopyStage.RUNNING)),
    A.RECORD_POWER_OFF: (power_off_noted,),
}  # fmt: skip
# The same with QEMU first: what the order of the steps protects from.
_REVERSED = {
    A.GO_ALONE: (leave_qemu, commit, durable, leave_renew, leave_done),
    A.PROMOTE: (promote_begins, *_SPEAK[:2], commit, durable, *_SPEAK[2:]),
}


def steps_of(action: Action, *, planned: bool = False) -> tuple[StepFn, ...]:
    """The list of an action, with the rules that are in force."""
    if planned:
        return switch.steps()
    if not kept("commit before QEMU") and action in _REVERSED:
        return _REVERSED[action]
    return STEPS[action]


def run_step(world: World, h: int) -> list[Outcome]:
    """The next step of the job on host `h`; empty where it has to wait."""
    job = world.hosts[h].agent.job
    return steps_of(job.action, planned=job.planned)[job.at](world, h, job)
