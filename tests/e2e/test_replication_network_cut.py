"""The replication network is cut: exactly one copy survives, whichever it is, and the client stays with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from testlab import VM, Lab, wait_for


@pytest.mark.parametrize(
    ("whose", "direction"),
    [("primary", "both"), ("secondary", "out")],
)
def test_exactly_one_copy_survives(
    lab: Lab, protected_vm: Callable[..., VM], whose: str, direction: str
) -> None:
    vm = protected_vm("web")
    before, pair = vm.epoch, (vm.primary, vm.secondary)
    cut = vm.primary if whose == "primary" else vm.secondary
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        lab.fault("partition", cut, network="replication", direction=direction)
        vm.wait("under a new epoch", lambda view: view.status.epoch > before, 10)
        workload.wait_progress(more=50, deadline_s=30)
        survivor = vm.primary
        loser = next(host for host in pair if host != survivor)
        assert survivor in pair
        wait_for(
            lambda: (
                vm.runs_on(survivor) and (vm.view().status.secondary is not None or not vm.runs_on(loser))
            ),
            20,
            f"the copy on {loser} has ended",
        )
        lab.heal(cut)
        vm.wait_lockstep(90)
        assert vm.primary == survivor
        workload.wait_progress(more=30, deadline_s=20)
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < 5_000
    workload.check_store()
