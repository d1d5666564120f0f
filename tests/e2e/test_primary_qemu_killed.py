"""The primary's QEMU is killed: the secondary goes on, and the client's sessions with it."""

from __future__ import annotations

from collections.abc import Callable

from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab


def test_sessions_go_on_and_nothing_confirmed_is_lost(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second, spare = vm.epoch, vm.primary, vm.secondary, vm.spare
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        vm.kill(first)
        workload.wait_progress(more=100, deadline_s=30)
        assert vm.wait_primary(second).status.epoch > before
        view = vm.wait_lockstep()
        workload.wait_progress(more=30, deadline_s=20)
    assert view.status.primary and view.status.primary.host == second
    assert view.status.secondary and view.status.secondary.host in (spare, first)
    assert "promoted" in vm.event_codes()
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()
