"""etcd was restored from a backup: VMs that were made since are not in it. They run on, and no disk is removed."""

from __future__ import annotations

from labstore import forget
from testlab import Lab, kill_agent, wait_for


def test_what_the_cluster_does_not_know_is_kept(lab: Lab) -> None:
    running, off = lab.create("running", "--no-protect"), lab.create("off", "--no-protect")
    lab.wait_answering(running.address)
    lab.ok("stop", "off", "--force", "--wait")
    places = {
        vm: (vm.primary, lab.plan.host(vm.primary).state_dir / "vms" / vm.name) for vm in (running, off)
    }
    pid = running.qemu(running.primary).pid
    for vm in (running, off):
        forget(lab, vm)

    def said() -> set[str]:
        return {event["name"] for event in lab.events() if event["code"] == "orphaned"}

    wait_for(lambda: {"running", "off"} <= said(), 20, "its host says what it keeps")
    assert lab.cli("get", "endophyte", "running").error_line.endswith("(endophyte-not-found)")
    assert running.qemu(places[running][0]).pid == pid
    lab.wait_answering(running.address)
    assert "the cluster knows neither it nor that it was deleted" in lab.cli("doctor").stdout

    # the next agent does not take it for deleted either
    for host in {host for host, _ in places.values()}:
        kill_agent(lab, host)
    lab.heal()
    wait_for(lambda: "left alone" in lab.agent_log(places[running][0]), 20, "the agent has looked at it")
    assert running.qemu(places[running][0]).pid == pid
    assert all((folder / "guest" / "disk0.qcow2").exists() for _, folder in places.values())

    for vm, (_, folder) in places.items():
        lab.ok("delete", "endophyte", vm.name)
        wait_for(lambda folder=folder: not folder.exists(), 20, f"what was kept of {vm.name} is gone")  # type: ignore[misc]
    wait_for(
        lambda: lab.cli("delete", "endophyte", "running").error_line.endswith("(endophyte-not-found)"),
        20, "nobody speaks of it any more",
    )  # fmt: skip
