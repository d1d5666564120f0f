"""A host is suspended: all that runs on it stands still, and goes on later. Others have acted meanwhile; what wakes
up asks who may speak before it says a word."""

from __future__ import annotations

from collections.abc import Callable

from testlab import VM, Lab, wait_for


def test_a_primary_that_wakes_up_says_nothing(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary
    old = vm.qemu(first).pid
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        lab.fault("pause", first)
        assert vm.wait_primary(second).status.epoch > before
        workload.wait_progress(more=50, deadline_s=30)
        vm.wait_lockstep()
        lab.heal(first)
        wait_for(lambda: old not in {one.pid for one in lab.qemus(first)}, 20, "the old copy is ended")
        workload.wait_progress(more=50, deadline_s=20)
    assert vm.primary == second
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < 15_000
    workload.check_store()


def test_a_spare_that_sleeps_changes_nothing(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, spare = vm.epoch, vm.spare
    with lab.workload(vm) as workload:
        lab.fault("pause", spare)
        vm.wait("without a spare", lambda view: not view.status.spares, 30)
        workload.wait_progress(more=50, deadline_s=20)
        lab.heal(spare)
        vm.wait("with its spare again", lambda view: view.status.spares == (spare,), 30)
        workload.wait_progress(more=50, deadline_s=20)
    assert vm.wait_lockstep().status.epoch == before
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < 5_000
