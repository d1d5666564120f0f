"""A host is gone for good with the only copy of a VM: somebody has to say so before the VM can be deleted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from labcredentials import ask_as_host
from testlab import Lab, kill_agent, wait_for

from vdc.lab import api as lab_api


def test_its_vm_can_be_deleted_once_it_is_declared_dead(lab: Lab) -> None:
    vm = lab.create("solo", "--no-protect")
    host = vm.primary
    others = [name for name in lab.hosts if name != host]
    lab.fault("power-off", host)
    wait_for(lambda: vm.view(others[0]).status.phase.value == "Unknown", 20, f"{host} is missed")
    refused = lab.cli("node", "remove", host)
    assert "the only copy of solo" in refused.error_line
    said = lab.ok("node", "remove", host, "--force", "--confirm", host)
    assert "solo" in said and "etcdctl member remove" in said
    vm.wait("lost", lambda view: view.status.phase.value == "Failed", 10)
    lab.ok("delete", "endophyte", "solo", "--timeout", "20")
    assert host not in lab.ok("get", "nodes", "-o", "name")

    lab.heal(host)  # it is not dead after all, and nobody any more: its certificate was revoked with it
    answer = ask_as_host(lab, host, others[0], "GET", "/v1/health")
    assert (answer.status, answer.code) == (401, "certificate-revoked")
    kill_agent(lab, host)
    done = _join_anew(lab, host)
    assert done.returncode == 0, done.stderr
    lab.heal(host)
    wait_for(lambda: host in lab.alive(others[0]), 30, f"{host} is back")
    folder = lab.plan.host(host).state_dir / "vms" / "solo"
    wait_for(lambda: not folder.exists(), 20, "the old copy is removed")


def _join_anew(lab: Lab, host: str) -> subprocess.CompletedProcess[str]:
    token = json.loads(lab.ok("cluster", "token", "create", "-o", "json"))["token"]
    program = str(Path(sys.executable).with_name("hostagent"))
    config = str(lab.plan.host(host).config_file)
    argv = lab_api.exec_argv(
        lab.name, host, [program, "join", "--anew", "--token", token, "--config", config]
    )
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
