"""A host's disk fills up: in lockstep the other copy goes on, alone the guest waits; nothing is lost or torn."""

from __future__ import annotations

from collections.abc import Callable

from disklab import small_disk
from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab, wait_for


def test_in_lockstep_the_copy_with_room_goes_on(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    with small_disk(lab, "h1") as disk:
        vm = protected_vm("web")
        assert vm.primary == "h1"
        before, second, pid = vm.epoch, vm.secondary, vm.qemu("h1").pid
        with lab.workload(vm) as workload:
            workload.wait_progress(more=30, deadline_s=20)
            disk.fill()
            view = vm.wait_primary(second)
            assert view.status.epoch > before
            workload.wait_progress(more=50, deadline_s=30)
            assert "disk-failed" in vm.event_codes()
            wait_for(
                lambda: pid not in {process.pid for process in lab.qemus("h1")},
                10,
                "the copy without room has ended",
            )
            vm.wait_lockstep()
            workload.wait_progress(more=30, deadline_s=20)
        assert not workload.report.errors
        assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
        workload.check_store()


def test_alone_the_guest_waits_for_room_and_goes_on_by_itself(lab: Lab) -> None:
    with small_disk(lab, "h1") as disk:
        vm = lab.create("web", "--no-protect")
        assert vm.primary == "h1"
        lab.wait_answering(vm.address)
        pid, before = vm.qemu("h1").pid, vm.epoch
        with lab.workload(vm, "durable", patience_s=60) as workload:
            workload.wait_progress(more=30, deadline_s=20)
            disk.fill()
            view = vm.wait("paused", lambda view: view.status.phase.value == "Paused", 30)
            assert "no room" in view.status.sentence
            wait_for(lambda: "disk-full" in vm.event_codes(), 10, "the alarm")
            disk.clear()
            workload.wait_progress(more=50, deadline_s=30)
            vm.wait("running", lambda view: view.status.phase.value == "Running", 15)
            wait_for(lambda: "disk-recovered" in vm.event_codes(), 15, "the end of the alarm")
        assert (vm.qemu("h1").pid, vm.epoch) == (pid, before), "nothing was restarted"
        assert not workload.report.errors
        workload.check_store()
