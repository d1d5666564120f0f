"""The cluster's authority is replaced under a VM in lockstep: nothing stops, and the old authority ends with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labcredentials import api_url, ask, authority_of, save_person
from pacing import UNDISTURBED_GAP_MS
from testlab import Lab, wait_for

from vdc.lab import api as lab_api
from vdc.model.identity import Role
from vdc.security.cluster import issue_user


def authority(lab: Lab) -> dict[str, Any]:
    return dict(json.loads(lab.ok("cluster", "ca", "show", "-o", "json")))


def as_administrator(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With the context that the lab's founding made, over the network."""
    program = str(Path(sys.executable).with_name("vdc"))
    command = ["env", f"VDC_CONFIG={lab.plan.admin_file}", program, *arguments]
    argv = lab_api.exec_argv(lab.name, "client", command)
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_a_rotation_disturbs_no_guest(own_lab: Callable[..., Lab], tmp_path: Path) -> None:
    lab = own_lab("c")
    vm = lab.create("web")
    lab.wait_answering(vm.address)
    epoch = vm.epoch
    thief = issue_user(authority_of(lab), name="thief", role=Role.ADMIN, now=datetime.now(UTC))
    stolen, url = save_person(tmp_path / "thief", thief), api_url(lab, "h1") + "/v1/nodes"
    assert ask(lab, "client", stolen, "GET", url).status == 200
    (old,) = authority(lab)["authorities"]
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        lab.ok("cluster", "ca", "rotate")
        refused = lab.cli("cluster", "ca", "retire")
        assert refused.code == 1 and "(authority-not-trusted)" in refused.error_line

        def only_people_are_left() -> bool:
            found = authority(lab)
            return not found["untrusting"] and {one["name"] for one in found["holders"]} == {"admin"}

        wait_for(only_people_are_left, 120, "every host has a certificate of the new authority")
        assert not any(
            one["fingerprint"] == old["fingerprint"] and one["is_issuing"]
            for one in authority(lab)["authorities"]
        )
        done = as_administrator(lab, "cluster", "renew")
        assert done.returncode == 0, done.stderr
        lab.ok("cluster", "ca", "retire")
        wait_for(
            lambda: ask(lab, "client", stolen, "GET", url).status in (0, 401), 30, "the thief is refused"
        )
        assert old["fingerprint"] not in {one["fingerprint"] for one in authority(lab)["authorities"]}
        assert as_administrator(lab, "get", "nodes").returncode == 0
        workload.wait_progress(more=30, deadline_s=20)
        assert vm.wait_lockstep(5).status.epoch == epoch, "no copy was given up"
    assert not workload.report.errors
    assert workload.report.longest_gap_ms < UNDISTURBED_GAP_MS
    workload.check_store()

    with lab.workload(vm) as workload:
        first, second = vm.primary, vm.secondary
        lab.fault("power-off", first)
        vm.wait_primary(second)
        workload.wait_progress(more=30, deadline_s=20)
        lab.heal(first)
        vm.wait_lockstep(90)
    assert not workload.report.errors
    workload.check_store()
    lab.remove_all_vms()
    lab.assert_clean("after the rotation")
