"""A replication link that goes and comes once a second: one copy goes on, and nobody is made a secondary until the
link has held for a while. Then there is one resync, not one for each time that the link came back."""

from __future__ import annotations

from collections.abc import Callable

from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab


def test_no_storm_of_resyncs(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first = vm.epoch, vm.primary
    began = vm.event_codes().count("protecting")
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        lab.fault("flap", first, network="replication", times=12)
        assert vm.epoch == before + 1, "one copy went on, and nothing was tried with the other hosts"
        vm.wait_lockstep(20)
        workload.wait_progress(more=30, deadline_s=20)
    assert vm.epoch == before + 2
    assert vm.event_codes().count("protecting") == began + 1
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()
