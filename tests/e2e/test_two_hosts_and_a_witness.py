"""Two hosts and a witness: either host may die or be cut off; so may the witness, but not with one of them."""

from __future__ import annotations

import json
from collections.abc import Callable

from pacing import FAILOVER_GAP_MS
from testlab import Lab, wait_for


def test_each_loss_is_survived(own_lab: Callable[..., Lab]) -> None:
    lab = own_lab("w", hosts=2, witness=True)
    nodes = {node["host"]["name"]: node for node in json.loads(lab.ok("get", "nodes", "-o", "json"))["items"]}
    assert nodes["w1"]["host"]["role"] == "witness"
    assert "add a witness" not in lab.cli("get", "nodes").stderr
    vm = lab.create("web")
    lab.wait_answering(vm.address)
    first, second = vm.primary, vm.secondary
    assert {first, second} == {"h1", "h2"}
    refused = lab.cli("promote", "replica", "web", "--to", "w1")
    assert refused.code == 1 and "is a witness" in refused.error_line
    wait_for(lambda: _etcd_leader(lab) == "w1", 30, "etcd's leadership is on the witness")
    before = vm.epoch
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)

        # the witness dies: nothing happens to the guest, and the doctor warns
        lab.fault("power-off", "w1")
        workload.wait_progress(more=50, deadline_s=20)
        wait_for(lambda: "witness w1 does not answer" in lab.cli("doctor").stdout, 20, "a warning")
        status = json.loads(lab.ok("cluster", "status", "-o", "json"))
        assert (status["majority"], status["may_lose"]) == (True, 0)
        lab.heal("w1")
        assert vm.wait_lockstep(30).status.epoch == before

        # the primary's host dies: the secondary takes over by the witness's vote
        lab.fault("power-off", first)
        workload.wait_progress(more=100, deadline_s=30)
        vm.wait_primary(second)
        lab.heal(first)
        vm.wait_lockstep(90)

        # the primary's host is cut off: the same, and its copy is ended when it hears of it
        lab.fault("partition", second)
        workload.wait_progress(more=100, deadline_s=30)
        vm.wait_primary(first)
        lab.heal(second)
        wait_for(lambda: not any(one.is_live for one in lab.taps(second)), 30, f"no copy speaks on {second}")
        vm.wait_lockstep(90)
        workload.wait_progress(more=30, deadline_s=20)
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    workload.check_store()
    assert vm.view().status.epoch > before
    assert json.loads(lab.ok("describe", "endophyte", "web", "-o", "json"))["pair"]["lineage"] == 0
    lab.remove_all_vms()
    lab.assert_clean("after all losses")


def _etcd_leader(lab: Lab) -> str | None:
    nodes = json.loads(lab.ok("get", "nodes", "-o", "json"))["items"]
    return next((node["host"]["name"] for node in nodes if node["etcd"] == "leader"), None)
