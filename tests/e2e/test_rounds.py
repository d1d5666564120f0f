"""Failover and re-protection again and again, under sessions that are opened once and written to all the time."""

from __future__ import annotations

from collections.abc import Callable

from pacing import FAILOVER_GAP_MS, rounds
from testlab import VM, Lab


def test_one_session_survives_all_rounds(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    with lab.workload(vm) as workload:
        for number in range(rounds(4, 10)):
            lose = lab_loses_power if number % 2 else lab_loses_qemu
            before, first, second = vm.epoch, vm.primary, vm.secondary
            workload.wait_progress(more=30, deadline_s=20)
            lose(lab, vm, first)
            workload.wait_progress(more=50, deadline_s=30)
            assert vm.wait_primary(second).status.epoch > before
            lab.heal(first)
            vm.wait_lockstep(90)
        workload.wait_progress(more=30, deadline_s=20)
    report = workload.report
    assert not report.errors
    assert report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()


def lab_loses_qemu(lab: Lab, vm: VM, host: str) -> None:
    vm.kill(host)


def lab_loses_power(lab: Lab, vm: VM, host: str) -> None:
    lab.fault("power-off", host)
