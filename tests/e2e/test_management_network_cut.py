"""The management network of the primary is cut: lockstep goes on and nobody is promoted. The client, which is
on that network, waits, and goes on with the same session when it is back."""

from __future__ import annotations

from collections.abc import Callable

from testlab import VM, Lab


def test_lockstep_goes_on_and_nobody_is_promoted(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary

    def checkpoints() -> int:
        return vm.copy_on(second).checkpoints.count

    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        lab.fault("partition", first, network="management")
        seen = checkpoints()
        vm.wait("checkpointing all the same", lambda view: checkpoints() > seen + 15, 30)
        assert vm.epoch == before
        assert (vm.primary, vm.secondary) == (first, second)
        lab.heal(first)
        workload.wait_progress(more=50, deadline_s=40)
        vm.wait_lockstep(20)
    assert (vm.epoch, vm.primary, vm.secondary) == (before, first, second)
    assert not workload.report.errors
    workload.check_store()
