"""The secondary's QEMU is killed: the guest is not hurt, and a spare becomes the new secondary."""

from __future__ import annotations

from collections.abc import Callable

from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab


def test_the_primary_goes_on_and_the_spare_steps_in(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second, spare = vm.epoch, vm.primary, vm.secondary, vm.spare
    pid = vm.qemu(first).pid
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        vm.kill(second)
        workload.wait_progress(more=100, deadline_s=30)
        vm.wait("under a new epoch", lambda view: view.status.epoch > before, 10)
        view = vm.wait_lockstep()
        workload.wait_progress(more=30, deadline_s=20)
    assert view.status.primary and view.status.primary.host == first
    assert view.status.secondary and view.status.secondary.host == spare
    assert vm.qemu(first).pid == pid
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()
