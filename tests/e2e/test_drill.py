"""`vdc drill`: the primary fails on purpose; the report says what a client would have noticed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from testlab import VM, Lab


@pytest.mark.parametrize(("fault", "most_ms"), [("kill", 3_000), ("hang", 15_000)])
def test_the_report_agrees_with_what_a_client_noticed(
    lab: Lab, protected_vm: Callable[..., VM], fault: str, most_ms: float
) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        result = json.loads(lab.ok("drill", "web", "--fault", fault, "--yes", "-o", "json"))
        workload.wait_progress(more=50, deadline_s=30)
    assert (result["previous"], result["primary"]) == (first, second)
    assert result["epoch"] > before
    assert 0 < result["gap_ms"] < most_ms
    assert result["promoted_ms"] > result["arbitrated_ms"] > 0
    assert result["protected_after_s"] > 0
    assert 0 < result["lost_probes"] < result["probes"] or fault == "kill"
    assert vm.wait_lockstep().status.primary.host == second  # type: ignore[union-attr]
    assert "drill" in vm.event_codes()
    assert not workload.report.errors
    workload.check_store()


def test_it_asks_first_and_refuses_what_would_be_an_outage(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before = vm.epoch
    refused = lab.cli("drill", "web")
    assert refused.code == 2 and "--yes" in refused.error_line, refused
    lab.create("alone", "--no-protect")
    refused = lab.cli("drill", "alone", "--yes")
    assert (refused.code, refused.error_line.endswith("(not-in-lockstep)")) == (1, True), refused
    assert vm.wait_lockstep().status.epoch == before
