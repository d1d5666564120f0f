"""The simulation's lists of steps are those of the code: what each step stands for is found there, in that order.

Whoever changes the order of an action's steps changes tests/simulation/jobs.py with it.
"""

from __future__ import annotations

import inspect

import pytest

from hostagent.supervisor import actions, adoption, arbiter, copy, handover, primary, secondary, supervisor
from tests.simulation import jobs
from vdc.protection.table import Action

# The function, and what stands in it in this order; beside each, the step of the simulation.
SOURCES = [
    (primary.start, [
        "end_process()", "CopyStage.PREPARING", "create_primary",
        "bootable", "copy.start(", "CopyStage.RUNNING",
    ]),
    (primary.adopt_epoch, [
        "remember_epoch", "take_out(", "disks.renew", "save(epoch=pair.epoch, plan=None",
        "save(plan=", "credentials.make(", "open_channels", "_call_off(", "save(epoch=pair.epoch, listening_epoch=",
    ]),
    (primary.enter, [
        "save(stage=CopyStage.ENTERING)", "primary.enter(",
        "_call_off", "CopyStage.CHECKPOINTING",
    ]),
    (primary._call_off, ["CopyStage.LEAVING", "take_out(", "swap_pair(", "CopyStage.RUNNING"]),
    (primary.mark, ["swap_pair(", "save(stage=CopyStage.LOCKSTEP)"]),
    (primary.alone, ["remember_epoch(", "swap_pair(", "await durable", "CopyStage.LEAVING", "await leave("]),
    (primary.leave, [
 "stage is CopyStage.LOCKSTEP", "remember_epoch(", "CopyStage.LEAVING", "record_withdrawn(", "take_out(",
        "primary.resume(", "disks.renew", "save(stage=CopyStage.RUNNING",
    ]),
    (primary.isolate, ["sever(", "quiesce(", "save(stage=CopyStage.ISOLATED)"]),
    (primary.switch_off, ["end_process()", "remove_ports()", "save(role=None"]),
    (secondary.prepare, [
        "discard(", "untell(", "CopyStage.PREPARING", "_primary_listening(",
        "secondary_disks(", "credentials.obtain(", "copy.start(", "secondary.prepare(", "CopyStage.READY",
    ]),
    (secondary.promote, ["_remember(", "swap_pair(", "await durable", "_speak(", "spoken(", "switch.leave(", "_tidy("]),
    (secondary._remember, ["remember_epoch(", "disks.promoted("]),
    (secondary.take_over, ["_remember(", "_speak(", "_tidy("]),
    (secondary._speak, ["CopyStage.PROMOTING", "go_live(", "switch.speak(", "secondary.promote(", "copy.save()"]),
    (secondary._tidy, ["secondary.settle(", "disks.settled()", "CopyStage.RUNNING"]),
    (secondary.inherit, ["end_process()", "CopyRole.PRIMARY"]),
    (secondary.lockstep_noted, ["disks.in_sync(", "CopyStage.LOCKSTEP"]),
    (secondary.failed, ["end_process()", "CopyStage.FAILED"]),
    (copy.Copy.discard, ["go_silent(", "end_process()", "remove_ports()", "remove_but_older", "highest_epoch="]),
    (actions._discard, ["linger(", "keep_copy(", "discard()"]),
    (arbiter.swap_pair, [
        "epoch != epoch", "check_transition(",
        "arbitrate(", "FencedError", "apply_early(KeyValue(",
    ]),
    (adoption._with_process, ["is_unread = True", "look_again("]),
    (adoption.look_again, ["_unanswered(", "_prepare_again(", "_stage_now(", "after_restart(", "is_unread = False"]),
    (adoption._prepare_again, ["end_process(is_news=False)", "CopyStage.ABSENT"]),
    (adoption._unanswered, ["_prepare_again(", "CopyStage.DEAD", "CopyStage.LEAVING"]),
    (adoption._stage_now, [
        "colo_ended = True", "CopyStage.DEAD", "CopyStage.CHECKPOINTING", "CopyStage.LEAVING",
        "CopyStage.PAUSED", "CopyStage.RUNNING",
    ]),
    (handover.after_restart, ["drop_hold(", "_is_lost(", "is_fenced(", "unfence("]),
    (handover.fence, ["_IN_LOCKSTEP", "handover.fence(", "fenced_epoch = epoch", "_lift_later("]),
    (handover._lift_later, ["sleep(FENCE_S)", "pair.epoch == epoch == copy.state.epoch", "unfence("]),
    (handover.linger, ["fenced + 1", "sleep(LINGER_S)", "go_silent("]),
    (handover.Handover.prepare, ["go_listen(", "Hold(", "ask_primary(", "is_set()", "held_at_s"]),
    (handover.Handover.speak, [
        "is_committed = True", "secondary.cut(", "_is_whole()", "drop_hold(", "secondary.promote(",
        "shut_comparison(", "going_live", "open_output(",
    ]),
    (handover.Handover.leave, ["secondary.promote(", "stop_listening("]),
    (handover.Handover._give_up, ["go_silent(", "drop_hold("]),
    (supervisor.Supervisor.quiesce, ["_require_epoch(", "fence("]),
    (supervisor.Supervisor.promote_planned, [
        "switch.prepare(", "_job_action = Action.PROMOTE", "secondary.promote(", "Action.HOLD",
    ]),
    (supervisor.Supervisor._pass, ["is_readable", "decide(", "_dispatch("]),
    (supervisor.Supervisor._dispatch, [
        "Action.HOLD", "UNDISTURBED", "_is_own_doing(",
        "Action.NOTE", "_failed_action", "_cancel_job()",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("function", "marks"), SOURCES, ids=lambda one: getattr(one, "__qualname__", ""))
def test_the_code_takes_its_steps_in_the_order_of_the_simulation(function, marks):
    source, at = inspect.getsource(function), 0
    for mark in marks:
        found = source.find(mark, at)
        assert found >= 0, f"{function.__qualname__}: {mark} does not come next"
        at = found


def test_every_action_has_its_steps():
    not_simulated = {Action.RETRY_DISK}  # failing disks are proven on real ones
    assert set(jobs.STEPS) == set(Action) - {Action.HOLD, Action.NOTE} - not_simulated
