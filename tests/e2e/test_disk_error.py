"""A disk refuses what is written: the secondary's costs the protection, the primary's a failover, neither the guest."""

from __future__ import annotations

from collections.abc import Callable

from file_limit import broken_disk
from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab, wait_for


def test_the_healthy_copy_carries_on(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second, spare = vm.epoch, vm.primary, vm.secondary, vm.spare
    pid, known = vm.qemu(first).pid, len(lab.events("web"))
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        with broken_disk(vm.qemu(second).pid):
            vm.wait("under a new epoch", lambda view: view.status.epoch > before, 10)
            workload.wait_progress(more=50, deadline_s=20)
        view = vm.wait_lockstep()
        assert view.status.primary and view.status.secondary
        assert (view.status.primary.host, view.status.primary.pid) == (first, pid), (
            "never promoted a torn copy"
        )
        assert view.status.secondary.host == spare, "its host is left alone for a while"

        before = view.status.epoch
        workload.wait_progress(more=30, deadline_s=20)
        with broken_disk(vm.qemu(first).pid):
            view = vm.wait_primary(spare)
            assert view.status.epoch > before
            workload.wait_progress(more=50, deadline_s=20)
        wait_for(
            lambda: pid not in {process.pid for process in lab.qemus(first)},
            10,
            f"the copy on {first} has ended",
        )
        vm.wait_lockstep(90)
        workload.wait_progress(more=30, deadline_s=20)
        told = [event for event in lab.events("web")[known:] if "disk on" in event["sentence"]]
        for host in (second, first):
            assert any(f"disk on {host}" in event["sentence"] for event in told), told
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()
