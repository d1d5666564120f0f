"""A Debian disk image as a user gets it: cloud-init, SSH, two disks, two NICs, and a host that loses its power.

One test with one VM: a whole system takes its time to boot on an emulated processor.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from debian_support import BOOT_S, debian_image, missing
from labssh import make_key, ssh_session
from pacing import timed, wait_for
from testlab import VM, Lab

from vdc.model.units import GIB, MIB

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

TYPED = 30
ANSWER_S = 20.0  # for a line that is typed while the host loses its power
STOP_S = 120.0


def test_an_ssh_session_lives_through_the_death_of_its_host(lab: Lab, tmp_path: Path) -> None:
    key = make_key(tmp_path)
    lab.ok("image", "import", str(debian_image()), "--name", "debian")
    vm = create(lab, key)
    await_agent(vm)
    vm.wait_lockstep(BOOT_S)
    one, other = vm.view().status.addresses

    with ssh_session(lab, key, f"anna@{one}") as session, ssh_session(lab, key, f"anna@{other}") as beside:
        session.type(60)
        beside.type(60)
        assert session.ask("hostname; whoami") == "web\nanna"
        assert session.ask("sudo true && echo may") == "may"
        assert int(session.ask("df --output=size -B1 / | tail -1")) > 2.5 * GIB
        assert session.ask("lsblk -bdno SIZE /dev/vdb") == str(64 * MIB)
        session.ask("echo cormorant | sudo tee /dev/vdb >/dev/null; sudo sync")
        session.ask("counter=41; mkdir -p /tmp/here && cd /tmp/here")
        first, second = vm.primary, vm.secondary
        waits = [session.type(ANSWER_S) for _ in range(TYPED)]
        lab.fault("power-off", first)
        waits += [session.type(ANSWER_S) for _ in range(TYPED)]
        beside.type(ANSWER_S)
        vm.wait_primary(second)
        print(f"longest wait for a typed line: {max(waits):.1f} s")
        assert session.ask("echo $((counter + 1)) $PWD") == "42 /tmp/here"
        assert session.ask("sudo head -c 9 /dev/vdb") == "cormorant"
        vm.wait_lockstep(BOOT_S)
        session.type(ANSWER_S)
        assert session.is_alive and beside.is_alive

    assert "web" in lab.ok("exec", "web", "--", "hostname")
    await_agent(vm)
    assert f"eth1 {other}" in lab.ok("describe", "endophyte", "web")
    with timed() as took_s:
        lab.ok("stop", "web", "--wait", "--timeout", f"{STOP_S:g}", timeout_s=STOP_S + 30)
        print(f"stopped in {took_s():.0f} s")
    stopped = [event["sentence"] for event in lab.events("web") if event["code"] == "stopped"]
    assert stopped[-1] == "stopped"


def create(lab: Lab, key: Path) -> VM:
    """As the command line makes it, with a further disk and a further NIC."""
    shown = lab.ok(
        "create", "web", "--image", "debian", "--ssh-key", f"{key}.pub", "--user", "anna",
        "--memory", "512MiB", "--disk", "3GiB", "--dry-run", "-o", "yaml",
    )  # fmt: skip
    manifest = yaml.safe_load(shown)
    manifest["spec"]["disks"].append({"name": "data", "size": "64MiB"})
    manifest["spec"]["networks"].append({"network": "default"})
    lab.ok("apply", "-f", "-", stdin=yaml.safe_dump(manifest))
    return VM(lab, "web")


def await_agent(vm: VM) -> None:
    """Until the guest says which addresses it has, as they were allotted to it."""

    def says() -> bool:
        agent = vm.view().status.agent
        said = {str(address) for nic in agent.interfaces for address in nic.addresses} if agent else set()
        return set(vm.view().status.addresses) <= said

    wait_for(says, BOOT_S, lambda: f"the guest's own addresses; it is {vm.view().status}", every_s=1.0)
