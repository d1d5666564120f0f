"""The primary's QEMU is killed: the secondary goes on, and the client's sessions with it."""

from __future__ import annotations

from collections.abc import Callable

from testlab import VM, Lab

GAP_MS = 5_000


def test_sessions_go_on_and_nothing_confirmed_is_lost(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        vm.kill(first)
        workload.wait_progress(more=100, deadline_s=30)
        view = vm.wait_primary(second)
        assert view.status.epoch > before
        vm.wait_lockstep()
        workload.wait_progress(more=30, deadline_s=20)
    report = workload.report
    assert not report.errors
    assert report.longest_gap_ms < GAP_MS
    workload.check_store()


def test_the_survivor_is_protected_on_the_spare(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    first, second, spare = vm.primary, vm.secondary, vm.spare
    vm.kill(first)
    vm.wait_primary(second)
    view = vm.wait_lockstep()
    assert view.status.primary and view.status.primary.host == second
    assert view.status.secondary and view.status.secondary.host in (spare, first)
    assert "promoted" in vm.event_codes()
