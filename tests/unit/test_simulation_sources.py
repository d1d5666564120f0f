"""The simulation's lists of steps are those of the code: what each step stands for is found there, in that order.

Whoever changes the order of an action's steps changes tests/simulation/jobs.py with it.
"""

from __future__ import annotations

import inspect

import pytest

from hostagent.supervisor import adoption, arbiter, copy, primary, secondary, supervisor
from tests.simulation import agent, jobs
from vdc.protection.table import Action

# The function, and what stands in it in this order; beside each, the step of jobs.py.
SOURCES = [
    (primary.start, [
        "end_process()", "CopyStage.PREPARING", "create_primary",
        "bootable", "copy.start(", "CopyStage.RUNNING",
    ]),
    (primary.adopt_epoch, [
        "remember_epoch", "primary.leave", "save(epoch=",
        "disks.renew", "save(plan=", "open_channels", "save(listening_epoch=",
    ]),
    (primary.enter, [
        "save(stage=CopyStage.ENTERING)", "primary.enter(",
        "_call_off", "CopyStage.CHECKPOINTING",
    ]),
    (primary._call_off, ["CopyStage.LEAVING", "primary.leave(", "swap_pair(", "CopyStage.RUNNING"]),
    (primary.mark, ["swap_pair(", "save(stage=CopyStage.LOCKSTEP)"]),
    (primary.alone, ["remember_epoch(", "swap_pair(", "await durable", "CopyStage.LEAVING", "await leave("]),
    (primary.leave, [
        "remember_epoch(", "primary.leave(",
        "primary.resume(", "save(stage=CopyStage.RUNNING", "disks.renew",
    ]),
    (primary.isolate, ["quiesce(", "save(stage=CopyStage.ISOLATED)"]),
    (primary.switch_off, ["end_process()", "remove_ports()", "save(role=None"]),
    (secondary.prepare, [
        "discard()", "CopyStage.PREPARING", "_primary_listening(",
        "create_secondary(", "copy.start(", "secondary.prepare(", "CopyStage.READY",
    ]),
    (secondary.promote, ["_remember(", "swap_pair(", "await durable", "_speak(", "_tidy("]),
    (secondary._remember, ["remember_epoch(", "disks.promoted("]),
    (secondary.take_over, ["_remember(", "_speak(", "_tidy("]),
    (secondary._speak, ["CopyStage.PROMOTING", "secondary.promote(", "go_live(", "copy.save()"]),
    (secondary._tidy, ["secondary.settle(", "disks.settled()", "CopyStage.RUNNING"]),
    (secondary.inherit, ["CopyRole.PRIMARY", "end_process()"]),
    (secondary.lockstep_noted, ["disks.in_sync(", "CopyStage.LOCKSTEP"]),
    (secondary.failed, ["end_process()", "CopyStage.FAILED"]),
    (copy.Copy.discard, ["end_process()", "remove_ports()", "rmtree", "highest_epoch="]),
    (arbiter.swap_pair, [
        "epoch != epoch", "check_transition(",
        "arbitrate(", "FencedError", "_show(host, KeyValue(",
    ]),
    (adoption._stage_now, ["CopyStage.FAILED", "colo_ended = True", "CopyStage.DEAD", "CopyStage.LEAVING"]),
    (supervisor.Supervisor._pass, ["is_readable", "decide(", "_dispatch("]),
    (supervisor.Supervisor._dispatch, [
        "Action.HOLD", "_ENDS_PROCESS",
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
    assert set(jobs.STEPS) == set(Action) - {Action.HOLD, Action.NOTE}


def test_what_the_supervisor_holds_for_the_same_work_is_the_same_here():
    assert agent.SAME_WORK == supervisor._WORK
    assert agent.ENDS_PROCESS == supervisor._ENDS_PROCESS
    assert agent.STAGES == supervisor._STAGES
    assert set(jobs.URGENT) == set(supervisor._URGENT)
