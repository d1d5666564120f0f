"""An agent is paused while others act: on waking it reads the epoch first, and its stale copy is ended, not resumed."""

from __future__ import annotations

import signal
from collections.abc import Callable

from pacing import UNDISTURBED_GAP_MS
from testlab import VM, Lab, wait_for

from vdc.lab.processes import signal_all


def test_a_stale_copy_is_ended_when_its_agent_wakes(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    first, second, spare = vm.primary, vm.secondary, vm.spare
    agent, qemu = lab.agent(first), vm.qemu(first)
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        signal_all([agent, qemu], signal.SIGSTOP)
        try:
            vm.wait_primary(second, 20)
            epoch = vm.wait_lockstep().status.epoch  # on the spare: nobody waited for the sleeper
            assert vm.secondary == spare
            workload.wait_progress(more=30, deadline_s=20)
            signal_all([qemu], signal.SIGCONT)  # its guest runs again, and nobody looks after it
            workload.wait_progress(more=100, deadline_s=20)
            assert vm.runs_on(first)
        finally:
            signal_all([qemu, agent], signal.SIGCONT)
        wait_for(lambda: not vm.runs_on(first), 10, f"the stale copy on {first} has ended")
        workload.wait_progress(more=30, deadline_s=20)
        after = vm.wait_lockstep().status
        assert (after.epoch, vm.primary) == (epoch, second), "the sleeper changed nothing"
    assert lab.agent(first).pid == agent.pid
    assert "reads the epoch first" in lab.agent_log(first)
    assert not workload.report.errors
    workload.check_store()


def test_a_sleep_alone_changes_nothing(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second, spare = vm.epoch, vm.primary, vm.secondary, vm.spare
    pids = {host: vm.qemu(host).pid for host in (first, second)}
    agents = [lab.agent(first), lab.agent(second)]
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        signal_all(agents, signal.SIGSTOP)
        try:
            wait_for(lambda: not {first, second} & lab.alive(spare), 20, "both are missed")
            workload.wait_progress(more=100, deadline_s=20)
        finally:
            signal_all(agents, signal.SIGCONT)
        wait_for(lambda: {first, second} <= lab.alive(first), 20, "both are back")
        assert vm.wait_lockstep(20).status.epoch == before
        workload.wait_progress(more=30, deadline_s=20)
    assert {host: vm.qemu(host).pid for host in (first, second)} == pids
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < UNDISTURBED_GAP_MS
