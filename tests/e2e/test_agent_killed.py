"""An agent is killed: guest and lockstep do not notice, the next agent takes them over, failover works as before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab, kill_agent, wait_for


@pytest.mark.parametrize("whose", ["primary", "secondary"])
def test_the_next_agent_takes_the_same_guest_over(
    lab: Lab, protected_vm: Callable[..., VM], whose: str
) -> None:
    vm = protected_vm("web")
    before, first, second, spare = vm.epoch, vm.primary, vm.secondary, vm.spare
    host = first if whose == "primary" else second
    pids = {name: vm.qemu(name).pid for name in (first, second)}
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        killed = kill_agent(lab, host)
        wait_for(lambda: host not in lab.alive(spare), 20, f"{host} is missed")
        workload.wait_progress(more=50, deadline_s=20)
        assert vm.view(spare).status.epoch == before, "a dead agent is no dead host"

        lab.heal(host)
        assert lab.agent(host).pid != killed
        wait_for(lambda: host in lab.alive(spare), 20, f"{host} is back")
        view = vm.wait_lockstep(20)
        assert view.status.epoch == before
        assert {name: vm.qemu(name).pid for name in (first, second)} == pids
        assert (view.status.primary and view.status.primary.pid) == pids[first]
        assert (view.status.secondary and view.status.secondary.pid) == pids[second]
        workload.wait_progress(more=30, deadline_s=20)

        vm.kill(first)
        workload.wait_progress(more=50, deadline_s=30)
        assert vm.wait_primary(second).status.epoch > before
        vm.wait_lockstep()
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()
