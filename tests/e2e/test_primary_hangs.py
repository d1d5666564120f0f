"""The primary's QEMU stands still: the secondary takes over, and the old copy never gets to speak again."""

from __future__ import annotations

import signal
from collections.abc import Callable

from testlab import VM, Lab, wait_for

from vdc.lab.processes import read_process


def test_the_secondary_takes_over_and_the_old_copy_is_killed(
    lab: Lab, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary
    hung = vm.qemu(first)
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        vm.kill(first, signal.SIGSTOP)
        view = vm.wait_primary(second, deadline_s=20)
        assert view.status.epoch > before
        workload.wait_progress(more=50, deadline_s=30)

        def is_gone() -> bool:
            now = read_process(hung.pid)
            return now is None or now.start_time != hung.start_time

        wait_for(is_gone, 20, "the copy that hung is killed")
        vm.wait_lockstep()
        workload.wait_progress(more=30, deadline_s=20)
    assert not workload.report.errors
    assert (
        workload.report.longest_gap_ms < 15_000
    )  # a stalled checkpoint has two seconds, then TCP waits as long
    workload.check_store()
