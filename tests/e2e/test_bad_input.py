"""What a user can get wrong, and what can be down: one line with a stable code and a hint, nothing half-made."""

from __future__ import annotations

from pathlib import Path

import pytest
from labcli import run_cli
from testlab import Lab, kill_agent, wait_for

GOOD = """
apiVersion: mycelium.network/v1
kind: Endophyte
metadata: {name: web}
spec: {image: mycelium/mini}
"""
THIS_LAB = "(the name of this lab)"
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")

MANIFESTS = {
    "no YAML": ("{", 2),
    "an unknown kind": (GOOD.replace("Endophyte", "Mushroom"), 2),
    "an unknown field": (GOOD.replace("image:", "colour: blue, image:"), 2),
    "a field twice": (GOOD.replace("image:", "image: x, image:"), 2),
    "no image": (GOOD.replace("image: mycelium/mini", "firmware: bios"), 2),
    "a bad name": (GOOD.replace("web", "../web"), 2),
    "no memory to speak of": (GOOD.replace("image:", "resources: {memory: 1KiB}, image:"), 2),
    "not a number": (GOOD.replace("image:", "resources: {cpus: .nan}, image:"), 2),
    "an unknown network": (GOOD.replace("image:", "networks: [{network: nowhere}], image:"), 1),
    "an address outside": (GOOD.replace("image:", "networks: [{address: 192.0.2.1}], image:"), 1),
    "an image that is not there": (GOOD.replace("mycelium/mini", "mycelium/maxi"), 1),
    "a disk without a size": (GOOD.replace("image:", "disks: [{name: a}, {name: b}], image:"), 1),
}

COMMANDS = {
    "create --image": (("create", "web", "--image", "no/such"), 1, "image-not-found"),
    "create --memory": (("create", "web", "--memory", "900GiB"), 1, "no-host"),
    "create --address": (("create", "web", "--address", "192.0.2.1"), 1, "address-invalid"),
    "create --template": (("create", "web", "--template", "nothing"), 2, "template-not-found"),
    "create a bad name": (("create", "Web_1"), 2, "usage"),
    "get": (("get", "endophyte", "web"), 1, "endophyte-not-found"),
    "get an unknown kind": (("get", "mushrooms"), 2, None),
    "delete": (("delete", "endophyte", "web"), 1, "endophyte-not-found"),
    "stop": (("stop", "web"), 1, "endophyte-not-found"),
    "protect": (("protect", "web"), 1, "endophyte-not-found"),
    "promote": (("promote", "replica"), 1, "nothing-protected"),
    "console": (("console", "web"), 1, "endophyte-not-found"),
    "logs": (("logs", "web"), 1, "endophyte-not-found"),
    "apply a missing file": (("apply", "-f", "no-such-file.yaml"), 2, "manifest-not-found"),
    "an unknown context": (("--context", "nowhere", "get", "nodes"), 1, "context-not-found"),
    "lab fault on an unknown host": (
        ("lab", "fault", "power-off", "h9", "-n", THIS_LAB),
        1,
        "lab-host-not-found",
    ),
}


def test_a_bad_manifest_is_refused_and_nothing_is_made(lab: Lab) -> None:
    for what, (manifest, code) in MANIFESTS.items():
        refused = lab.cli("apply", "-f", "-", stdin=manifest)
        assert refused.code == code, f"{what}: {refused}"
        assert refused.error_line.startswith("error: "), what
        assert refused.error_line.endswith(")"), what
        assert "Traceback" not in refused.stderr, what
        assert not refused.stdout, what
    assert not lab.vm_names()


def test_a_bad_command_is_refused_and_nothing_is_made(lab: Lab) -> None:
    for what, (arguments, code, word) in COMMANDS.items():
        refused = lab.cli(*(lab.name if one == THIS_LAB else one for one in arguments))
        assert refused.code == code, f"{what}: {refused}"
        assert refused.error_line.startswith("error: "), what
        assert word is None or refused.error_line.endswith(f"({word})"), f"{what}: {refused.error_line}"
        assert refused.hint, f"{what} gives no hint: {refused.error_line}"
    assert not lab.vm_names()


def test_an_address_is_given_once(lab: Lab) -> None:
    vm = lab.create("web", "--no-protect", "--address", "10.77.0.50")
    assert vm.address == "10.77.0.50"
    refused = lab.cli("create", "other", "--no-protect", "--address", "10.77.0.50")
    assert refused.code == 1
    assert refused.error_line.endswith("(address-taken)")
    assert lab.vm_names() == ("web",)


def test_a_create_that_failed_can_be_repeated(lab: Lab) -> None:
    assert lab.cli("create", "web", "--no-protect", "--image", "mycelium/later").code == 1
    source = str(lab.settings.cache_root / "images" / "mini" / "current")
    lab.ok("image", "import", source, "--name", "mycelium/later")
    lab.create("web", "--no-protect", "--image", "mycelium/later")
    lab.remove_all_vms()
    lab.ok("image", "rm", "mycelium/later")


def test_who_is_not_root_is_told_so(lab: Lab, tmp_path: Path) -> None:
    environment = lab.environment | {"VDC_CONFIG": str(tmp_path / "none.yaml")}
    refused = run_cli("lab", "up", "--name", "nobody", environment=environment, wrapper=NOBODY)
    assert refused.code == 1
    assert refused.error_line.endswith("(needs-root)")
    assert "sudo" in refused.hint


def test_without_a_majority_nothing_is_changed(lab: Lab) -> None:
    vm = lab.create("web", "--no-protect")
    lab.wait_answering(vm.address)
    others = [host for host in lab.hosts if host != vm.primary]
    with lab.workload(vm) as workload:
        for host in others:
            lab.fault("power-off", host)
        refused = lab.cli("create", "late", "--no-protect")
        assert refused.code == 1
        assert refused.error_line.startswith("error: ")
        assert refused.hint
        workload.wait_progress(more=30, deadline_s=20)
        for host in others:
            lab.heal(host)
        lab.heal()
        workload.wait_progress(more=30, deadline_s=20)
    assert not workload.report.errors
    wait_for(lambda: lab.vm_names() == ("web",), 10, "nothing half-made is left")
    lab.create("late", "--no-protect")


@pytest.fixture
def one_host(session_lab: Lab, tmp_path: Path) -> Lab:
    """A second lab with one host only, beside the first."""
    with Lab("one", tmp_path / "config.yaml", hosts=1) as lab:
        yield lab
    assert not lab_left("one")


def test_one_host_alone_runs_unprotected_and_says_why(one_host: Lab) -> None:
    one_host.ok("create", "web")
    waited = one_host.cli("create", "other", "--wait", "--timeout", "8")
    assert waited.code == 1
    assert waited.error_line.endswith("(wait-timeout)")
    assert "secondary" in waited.error_line
    view = one_host.view("web")
    assert (view.status.phase.value, view.status.protection.value) == ("Running", "degraded")
    assert "no host can take a secondary" in view.status.sentence
    one_host.ok("create", "single", "--nodes", "1", "--wait", "--timeout", "30")
    one_host.wait_answering(one_host.view("single").status.addresses[0])

    kill_agent(one_host, "h1")
    refused = one_host.cli("get", "endophytes")
    assert refused.code == 1
    assert refused.error_line.endswith("(agent-unreachable)")
    assert refused.hint
    one_host.heal()
    assert one_host.vm_names() == ("other", "single", "web")


def lab_left(name: str) -> tuple[str, ...]:
    """What is left of a lab that was taken down."""
    from vdc.lab.audit import audit

    return audit(name)
