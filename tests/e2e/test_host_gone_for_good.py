"""A host is gone for good with the only copy of a VM: somebody has to say so before the VM can be deleted."""

from __future__ import annotations

from testlab import Lab, wait_for


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

    lab.heal(host)  # it is not dead after all: what it has of the VM goes
    wait_for(lambda: host in _alive(lab, others[0]), 30, f"{host} is back")
    folder = lab.plan.host(host).state_dir / "vms" / "solo"
    wait_for(lambda: not folder.exists(), 20, "the old copy is removed")


def _alive(lab: Lab, asked: str) -> set[str]:
    nodes = lab.run(lab.api(asked).list_nodes()).items
    return {node.host.name for node in nodes if node.alive}
