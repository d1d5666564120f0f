"""`vdc promote replica`: both hosts are healthy, and the client notices nothing but a pause."""

from __future__ import annotations

import json
from collections.abc import Callable

from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab


def test_sessions_go_on_and_the_old_primary_serves_as_a_spare(
    lab: Lab, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        result = json.loads(lab.ok("promote", "replica", "-o", "json"))
        workload.wait_progress(more=100, deadline_s=30)
        view = vm.wait_lockstep()
        workload.wait_progress(more=30, deadline_s=20)
    assert (result["name"], result["previous"], result["primary"]) == ("web", first, second)
    assert result["epoch"] > before
    assert view.status.primary and view.status.primary.host == second
    taking_part = (view.status.secondary.host if view.status.secondary else None, *view.status.spares)
    assert first in taking_part, "the old primary's host is not used any more"
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()
    nodes = json.loads(lab.ok("get", "nodes", "-o", "json"))["items"]
    assert all(node["alive"] for node in nodes)


def test_to_a_spare_the_replica_moves_first(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, spare = vm.epoch, vm.spare
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        assert spare in lab.ok("promote", "replica", "web", "--to", spare)
        workload.wait_progress(more=50, deadline_s=30)
        assert vm.wait_primary(spare).status.epoch > before
        vm.wait_lockstep()
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()


def test_what_cannot_be_promoted_is_refused(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary
    for arguments in (("web", "--to", first), ("web", "--to", "h9"), ("nobody",)):
        refused = lab.cli("promote", "replica", *arguments)
        assert refused.code == 1, f"{arguments}: {refused}"
        assert refused.error_line.startswith("error: ")
        assert refused.hint or "already runs" in refused.error_line
    view = vm.wait_lockstep()
    assert view.status.epoch == before
    assert (view.status.primary and view.status.primary.host) == first
    assert (view.status.secondary and view.status.secondary.host) == second
