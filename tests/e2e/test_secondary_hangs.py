"""The secondary's QEMU stands still, its connections half open: the primary goes on alone, then with the spare."""

from __future__ import annotations

import signal
from collections.abc import Callable

from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab, wait_for

from vdc.lab.processes import read_process


def test_the_primary_goes_on_and_the_hung_copy_is_killed(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary
    pid, hung = vm.qemu(first).pid, vm.qemu(second)
    with lab.workload(vm) as workload:  # writes to the disk without end, which go to the secondary as well
        workload.wait_progress(more=30, deadline_s=20)
        vm.kill(second, signal.SIGSTOP)
        vm.wait("under a new epoch", lambda view: view.status.epoch > before, 10)
        workload.wait_progress(more=50, deadline_s=30)

        def is_gone() -> bool:
            now = read_process(hung.pid)
            return now is None or now.start_time != hung.start_time

        wait_for(is_gone, 20, "the copy that hung is killed")
        vm.wait_lockstep()
        workload.wait_progress(more=30, deadline_s=20)
    assert (vm.primary, vm.qemu(first).pid) == (first, pid)
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()
