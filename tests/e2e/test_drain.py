"""A host is drained for maintenance: its guests go on elsewhere, and it can be switched off without effect."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from pacing import FAILOVER_GAP_MS
from testlab import VM, Lab, kill_agent, wait_for


def test_three_vms_leave_and_nobody_notices_that_the_host_is_switched_off(lab: Lab) -> None:
    """On the way the leader's agent is killed, wherever it is in its work."""
    first, others = lab.hosts[0], lab.hosts[1:]
    vms = web, db, solo = _three_on(lab, first)
    with lab.workload(web) as of_web, lab.workload(db, "echo") as of_db, lab.workload(solo) as of_solo:
        workloads = (of_web, of_db, of_solo)

        def all_go_on() -> None:
            for workload in workloads:
                workload.wait_progress(more=10, deadline_s=30)

        all_go_on()
        with ThreadPoolExecutor(1) as background:
            draining = background.submit(lab.ok, "node", "drain", first, "--timeout", "120", "-o", "json")
            solo.wait("on its way", lambda view: view.status.moving_to is not None, 20)
            leader = next(n.host.name for n in lab.ask(lambda api: api.list_nodes()).items if n.is_leader)
            kill_agent(lab, leader)
            lab.heal(leader)
            result = json.loads(draining.result())
        assert (result["promoted"], result["migrated"]) == (["db", "web"], ["solo"])
        assert (result["left"], result["is_done"]) == ([], True)
        assert not lab.qemus(first), f"something runs on {first}"
        all_go_on()
        assert all(vm.primary in others and first not in vm.view().status.spares for vm in vms)
        assert "Ready,drained" in lab.ok("get", "nodes")
        for vm in (web, db):
            vm.wait_lockstep()
        epochs = [vm.epoch for vm in vms]

        lab.fault("power-off", first)
        wait_for(lambda: first not in lab.alive(others[0]), 20, f"{first} is missed")
        all_go_on()
        assert [vm.epoch for vm in vms] == epochs, "it had no part in anything"
        lab.heal(first)
        wait_for(lambda: first in lab.alive(others[0]), 30, f"{first} is back")
        assert web.view().status.spares == (), "it is drained still"
        lab.ok("node", "resume", first)
        for vm in (web, db):
            vm.wait("with its spare again", lambda view: view.status.spares == (first,), 20)
    for workload in workloads:
        assert not workload.report.errors
        assert workload.report.longest_gap_ms < FAILOVER_GAP_MS
    of_web.check_store()
    of_solo.check_store()


def test_what_cannot_leave_is_named_and_resume_ends_it(lab: Lab) -> None:
    vm = lab.create("solo", "--no-protect")
    host = vm.primary
    lab.ok("pause", "solo", "--wait")
    late = lab.cli("node", "drain", host, "--timeout", "2")
    assert late.code == 1
    assert "solo" in late.stderr and "is paused" in late.stderr, late.stderr
    assert f"vdc node resume {host}" in late.stderr
    lab.ok("start", "solo", "--wait")
    vm.wait("being copied", lambda view: view.status.secondary is not None, 20)
    lab.ok("node", "resume", host)
    vm.wait("alone where it was", lambda view: view.status.secondary is None, 20)
    assert (vm.primary, vm.view().status.moving_to) == (host, None)


def _three_on(lab: Lab, host: str) -> tuple[VM, VM, VM]:
    """Two protected VMs and an unprotected one, all with their primary on `host`: it alone may be used at first."""
    others = [name for name in lab.hosts if name != host]
    for other in others:
        lab.ok("node", "drain", other)
    last = lab.cli("node", "drain", host)
    assert "last host" in last.error_line
    for name, *options in (("web",), ("db",), ("solo", "--no-protect")):
        lab.ok("create", name, *options)
    vms = (VM(lab, "web"), VM(lab, "db"), VM(lab, "solo"))
    for vm in vms:
        vm.wait_primary(host, 60)
    for other in others:
        lab.ok("node", "resume", other)
    for vm in vms[:2]:
        vm.wait_lockstep(90)
    lab.wait_answering(vms[2].address)
    return vms
