"""A host is suspended: all that runs on it stands still, and goes on later. Others have acted meanwhile. What wakes
up says nothing, though nobody looks after it yet, and is ended. A spare that sleeps changes nothing."""

from __future__ import annotations

from collections.abc import Callable

from testlab import VM, Lab, wait_for


def test_a_spare_and_then_the_primary_sleep_and_wake_up(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second, spare = vm.epoch, vm.primary, vm.secondary, vm.spare
    old = vm.qemu(first).pid
    with lab.workload(vm) as workload:
        lab.fault("pause", spare)
        vm.wait("without a spare", lambda view: not view.status.spares, 30)
        workload.wait_progress(more=50, deadline_s=20)
        lab.heal(spare)
        vm.wait("with its spare again", lambda view: view.status.spares == (spare,), 30)
        assert vm.wait_lockstep().status.epoch == before

        lab.fault("pause", first)
        assert vm.wait_primary(second).status.epoch > before
        workload.wait_progress(more=50, deadline_s=30)
        vm.wait_lockstep()
        lab.heal(first)
        wait_for(lambda: old not in {one.pid for one in lab.qemus(first)}, 20, "the old copy is ended")
        workload.wait_progress(more=50, deadline_s=20)
    assert vm.primary == second
    assert not workload.report.errors
    assert (
        workload.report.longest_gap_ms < 15_000
    )  # until a checkpoint counts as stalled, then TCP waits as long
    workload.check_store()
