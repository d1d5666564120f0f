"""A host loses its power, without a FIN or a RST: the primary's, the secondary's, the spare's."""

from __future__ import annotations

from collections.abc import Callable

from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab


def test_the_secondary_takes_over(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second, spare = vm.epoch, vm.primary, vm.secondary, vm.spare
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        lab.fault("power-off", first)
        workload.wait_progress(more=100, deadline_s=30)
        assert vm.wait_primary(second).status.epoch > before
        view = vm.wait_lockstep()
        assert view.status.secondary and view.status.secondary.host == spare
        workload.wait_progress(more=30, deadline_s=20)
    report = workload.report
    assert not report.errors
    assert report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()


def test_without_the_secondary_the_primary_goes_on(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second, spare = vm.epoch, vm.primary, vm.secondary, vm.spare
    pid = vm.qemu(first).pid
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        lab.fault("power-off", second)
        workload.wait_progress(more=100, deadline_s=30)
        view = vm.wait("protected by the spare", lambda view: _secondary_of(view) == spare, 30)
        assert view.status.epoch > before
        vm.wait_lockstep()
        workload.wait_progress(more=30, deadline_s=20)
    assert vm.primary == first
    assert vm.qemu(first).pid == pid
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()


def test_without_the_spare_nothing_happens(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, spare = vm.epoch, vm.spare
    with lab.workload(vm) as workload:
        lab.fault("power-off", spare)
        vm.wait("without a spare", lambda view: not view.status.spares, 30)
        workload.wait_progress(more=50, deadline_s=20)
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    view = vm.wait_lockstep()
    assert view.status.epoch == before
    lab.heal(spare)
    vm.wait("with its spare again", lambda view: view.status.spares == (spare,), 30)


def _secondary_of(view: object) -> str | None:
    secondary = view.status.secondary  # type: ignore[attr-defined]
    return secondary.host if secondary else None
