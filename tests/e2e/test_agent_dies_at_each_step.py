"""Agents die by SIGKILL between any two effects of an operation: the next agent finishes it or undoes it cleanly.

The guest keeps running wherever the operation does not end it, its TCP sessions survive, and it ends in
lockstep. Several steps are armed at once: an agent that comes back dies again at the next one, and what comes
back after the last one is asked to do the whole again.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from failpoints import Failpoints, failpoints, of
from testlab import VM, Lab, wait_for

from vdc.lab.processes import signal_all
from vdc.model.endophyte import Phase, RunState
from vdc.model.step import Step

LEADER = of("place", "protect", "delete")
BORN_AS_PRIMARY = (
    *of("start", "adopt", but=(Step.START_DONE,)),
    Step.POWER_ON_PORTS, Step.POWER_ON_SPAWNED, Step.ENTER_LOCKSTEP, Step.MARK_COMMITTED,
)  # fmt: skip
BORN_AS_SECONDARY = (*of("prepare", "power_on"), Step.SYNCED_DISKS)
ENTERING = (*of("enter", but=(Step.ENTER_LOCKSTEP,)), Step.MARK_CONSENT, Step.MARK_DONE)
CALLED_OFF = of("call_off")
TAKING_OVER = of("promote", "speak", "tidy", but=(Step.PROMOTE_DONE,))
DISCARDING = of("discard")
BOTH_LOST = (Step.PROMOTE_COMMITTED, Step.INHERIT_DONE)
AT_THE_SECOND_PAUSE = (Step.LEAVE_DONE, Step.PAUSE_DONE, Step.RESUME_DONE)  # the first dies before, each time
UNPROTECTING = (Step.ALONE_DONE,)
PAUSING = of("alone", "leave", "pause", "resume", but=(*AT_THE_SECOND_PAUSE, *UNPROTECTING))
STOPPING = of("power_down", "switch_off", but=(Step.POWER_DOWN_DONE,))
STARTING = (Step.START_DONE,)
POWERING_OFF = (Step.RECORD_OFF_DONE, Step.POWER_DOWN_DONE)
PLANNED = (*of("handover"), Step.PROMOTE_DONE)
ISOLATED = of("isolate")
SNAPSHOT = of("snapshot", "save", "load")  # test_snapshots.py


def test_no_step_is_left_out() -> None:
    tried = {
        *LEADER, *BORN_AS_PRIMARY, *BORN_AS_SECONDARY, *ENTERING, *CALLED_OFF, *TAKING_OVER, *DISCARDING,
        *BOTH_LOST, *PAUSING, *AT_THE_SECOND_PAUSE, *UNPROTECTING, *STOPPING, *STARTING, Step.SYNCED_DONE,
        *POWERING_OFF, *PLANNED, *ISOLATED, *SNAPSHOT,
    }  # fmt: skip
    assert set(Step) - tried == set()


@pytest.fixture(scope="module")
def points(session_lab: Lab) -> Iterator[Failpoints]:
    with failpoints(session_lab) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_stays_armed(points: Failpoints) -> Iterator[None]:
    yield
    points.disarm()


def protect_again(vm: VM) -> None:
    """Have a fresh secondary made for a guest that goes on."""
    vm.ask_protection(enabled=False)
    vm.wait("unprotected", lambda view: view.status.secondary is None, 20)
    vm.ask_protection(enabled=True)


def test_while_a_vm_is_made_and_protected(lab: Lab, points: Failpoints) -> None:
    points.arm(lab.leader(), Step.PLACE_COMMITTED)
    points.arm_everywhere(*BORN_AS_PRIMARY, *BORN_AS_SECONDARY)
    asked = lab.cli("create", "web")  # perhaps of an agent that dies before it has answered
    assert asked.code == 0 or "is unknown" in asked.stderr
    vm = VM(lab, "web")
    view = vm.wait_lockstep(120)
    assert view.status.epoch == 2, "no attempt was given up"
    points.wait_died_at(vm.primary, *BORN_AS_PRIMARY)
    points.wait_died_at(vm.secondary, *BORN_AS_SECONDARY)
    points.disarm()
    first = vm.primary
    pid = vm.qemu(first).pid
    lab.wait_answering(vm.address)
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        vm.wait_lockstep()
        assert vm.qemu(first).pid == pid
        vm.kill(first)
        workload.wait_progress(more=30, deadline_s=20)
    assert not workload.report.errors
    workload.check_store()
    assert "went-on" in vm.event_codes()


def test_while_lockstep_is_entered(lab: Lab, points: Failpoints, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    first = vm.primary
    pid = vm.qemu(first).pid
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        points.arm(first, *ENTERING)
        points.arm(lab.leader(), Step.PROTECT_COMMITTED)
        points.arm_everywhere(Step.SYNCED_DONE)
        protect_again(vm)
        points.wait_died_at(first, *ENTERING, deadline_s=90)
        points.wait_died_anywhere(Step.SYNCED_DONE)
        vm.wait_lockstep()
        workload.wait_progress(more=30, deadline_s=20)
    assert vm.qemu(first).pid == pid
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < 15_000  # it stands still until its agent has started again
    workload.check_store()


def test_while_an_entry_that_failed_is_called_off(
    lab: Lab, points: Failpoints, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    first = vm.primary
    pid = vm.qemu(first).pid
    points.arm(first, Step.ENTER_CONFIGURED, action="wait")
    protect_again(vm)
    for step in CALLED_OFF:
        points.wait_standing_at(first, Step.ENTER_CONFIGURED)
        points.arm(first, step)
        if step is not CALLED_OFF[-1]:
            points.arm(first, Step.ENTER_CONFIGURED, action="wait")
        second = vm.secondary
        silenced = [lab.agent(second)]
        signal_all(silenced, signal.SIGSTOP)  # or it would say at once that its copy died
        try:
            vm.kill(second)
            points.release(first, Step.ENTER_CONFIGURED)
            points.wait_died_at(first, step)
        finally:
            signal_all(silenced, signal.SIGCONT)
    points.kill_agent(lab.leader())  # the next leader holds nothing against the two hosts
    vm.wait_lockstep(90)
    assert vm.qemu(first).pid == pid


def test_while_a_copy_takes_over_and_the_other_is_discarded(
    lab: Lab, points: Failpoints, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    first, second = vm.primary, vm.secondary
    pid = vm.qemu(second).pid
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        points.arm(first, *DISCARDING)
        points.arm(second, *TAKING_OVER)
        vm.kill(first)
        points.wait_died_at(second, *TAKING_OVER)
        points.wait_died_at(first, *DISCARDING)
        workload.wait_progress(more=30, deadline_s=20)
        vm.wait_lockstep(90)
    assert vm.qemu(second).pid == pid
    assert not workload.report.errors
    workload.check_store()


def test_while_a_copy_takes_over_that_is_lost_itself(
    lab: Lab, points: Failpoints, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    first, second = vm.primary, vm.secondary
    with lab.workload(vm, "durable") as workload:
        workload.wait_progress(more=30, deadline_s=20)
    points.arm(second, Step.PROMOTE_COMMITTED, action="wait")
    points.arm(second, Step.INHERIT_DONE)
    vm.kill(first)
    points.wait_standing_at(second, Step.PROMOTE_COMMITTED)
    with points.nobody_starts(second):
        points.kill_agent(second)
        vm.kill(second)
    points.wait_died_at(second, Step.INHERIT_DONE)
    vm.wait_primary(second, 60)
    vm.wait_lockstep(90)
    lab.wait_answering(vm.address)
    workload.check_store()


def test_while_it_is_paused_and_while_its_protection_ends(
    lab: Lab, points: Failpoints, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    first = vm.primary
    pid = vm.qemu(first).pid
    for steps in (PAUSING, AT_THE_SECOND_PAUSE):
        points.arm(first, *steps)
        vm.ask_run(RunState.PAUSED)
        vm.wait("paused", lambda view: view.status.phase is Phase.PAUSED, 60)
        points.wait_died_at(first, *(step for step in steps if step.operation != "resume"))
        vm.ask_run(RunState.RUNNING)
        points.wait_died_at(first, *steps)
        vm.wait("running", lambda view: view.status.phase is Phase.RUNNING, 30)
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        points.arm(first, *UNPROTECTING)
        protect_again(vm)
        points.wait_died_at(first, *UNPROTECTING)
        vm.wait_lockstep(90)
        workload.wait_progress(more=30, deadline_s=20)
    assert not workload.report.errors
    assert vm.qemu(first).pid == pid


def promote_until_it_died_at(step: Step, lab: Lab, points: Failpoints, vm: VM) -> None:
    """A promotion may be refused (an agent that has just come back, no quiet checkpoint): then one asks again."""

    def has_died() -> bool:
        points.disarm()
        vm.wait_lockstep(90)
        host = vm.primary if step is Step.HANDOVER_FENCED else vm.secondary
        points.arm(host, step)
        lab.cli("promote", "replica", "web")  # whose agent dies under it: what it says is not at stake
        with suppress(AssertionError):
            points.wait_died_at(host, step, deadline_s=3)
        return step not in points.armed(host)

    wait_for(has_died, 60, f"an agent dies at {step}")


def test_while_it_is_promoted_as_planned(
    lab: Lab, points: Failpoints, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        for step in PLANNED:
            promote_until_it_died_at(step, lab, points, vm)
            workload.wait_progress(more=30, deadline_s=20)
            vm.wait_lockstep(90)
    assert not workload.report.errors
    workload.check_store()


def test_while_it_stops_and_is_deleted(lab: Lab, points: Failpoints, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    first = vm.primary
    with lab.workload(vm, "durable") as workload:
        workload.wait_progress(more=30, deadline_s=20)
    points.arm(first, *STOPPING)
    vm.ask_run(RunState.STOPPED)
    points.wait_died_at(first, *STOPPING)
    vm.wait("stopped", lambda view: view.status.phase is Phase.STOPPED, 30)
    points.arm(first, *STARTING)
    vm.ask_run(RunState.RUNNING)
    points.wait_died_at(first, *STARTING)
    vm.wait("running", lambda view: view.status.phase is Phase.RUNNING, 30)
    lab.wait_answering(vm.address)
    workload.check_store()
    points.arm(first, *POWERING_OFF)
    lab.cli("console", "web", stdin="\npoweroff\n")
    points.wait_died_at(first, *POWERING_OFF)
    vm.wait("stopped", lambda view: view.status.phase is Phase.STOPPED, 30)
    points.arm(first, *DISCARDING)
    points.arm(lab.leader(), Step.DELETE_READY)
    points.arm_everywhere(Step.DELETE_COMMITTED)  # whoever leads next
    lab.delete("web")
    points.wait_died_anywhere(Step.DELETE_READY)
    points.wait_died_anywhere(Step.DELETE_COMMITTED)
    wait_for(lambda: not lab.vm_names(), 30, "deleted")


def test_while_it_is_isolated(lab: Lab, points: Failpoints, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    with lab.workload(vm) as workload:
        for step in ISOLATED:
            first, second = vm.primary, vm.secondary
            workload.wait_progress(more=30, deadline_s=20)
            points.arm(first, step)
            lab.fault("partition", first)
            points.wait_died_at(first, step, deadline_s=40)
            lab.heal(first)
            vm.wait_primary(second)
            workload.wait_progress(more=30, deadline_s=20)
            vm.wait_lockstep(90)
    assert not workload.report.errors
    workload.check_store()
