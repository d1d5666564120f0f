"""Joining by token, users who come and go, a stolen disk, and a conversation that somebody recorded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from labcredentials import api_url, ask, authority_of, etcd_url, host_folder, save_context, save_person
from test_certificates import person, vdc
from testlab import Lab, wait_for

from vdc.lab import api as lab_api
from vdc.lab.plan import CLIENT_OCTET, Underlay
from vdc.model.identity import Role
from vdc.security.folder import load_credentials, pki_folder

REPLAY = Path(__file__).with_name("labreplay.py")


@pytest.fixture
def newcomer(lab: Lab) -> Iterator[Path]:
    """The configuration of a host h4, which plays in the client's namespace; it is never started."""
    folder = Path(tempfile.mkdtemp(prefix="h4-"))
    address = str(Underlay.MANAGEMENT.address(CLIENT_OCTET))
    members = {host.name: str(host.address(Underlay.MANAGEMENT)) for host in lab.plan.hosts}
    leg = {"address": address, "interface": Underlay.MANAGEMENT.interface}
    config = {
        "host": "h4", "state_dir": str(folder), "management": leg, "replication": leg,
        "overlay_address": str(lab.plan.network.cidr.network_address + 4),
        "network": lab.plan.network.model_dump(mode="json"),
        "etcd": {"embedded": {"members": {**members, "h4": address}}},
    }  # fmt: skip
    (folder / "agent.yaml").write_text(yaml.safe_dump(config))
    yield folder / "agent.yaml"
    shutil.rmtree(folder)


def join(lab: Lab, config: Path, token: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("hostagent"))
    argv = lab_api.exec_argv(lab.name, "client", [program, "join", "--token", token, "--config", str(config)])
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def new_token(lab: Lab, *options: str) -> str:
    return json.loads(lab.ok("cluster", "token", "create", *options, "-o", "json"))["token"]


def alive(lab: Lab) -> set[str]:
    return {node.host.name for node in lab.ask(lambda api: api.list_nodes()).items if node.alive}


def code_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout
    return done.stderr.splitlines()[0].rpartition("(")[2].rstrip(")")


def test_a_token_makes_one_member_once(lab: Lab, newcomer: Path, tmp_path: Path) -> None:
    token = new_token(lab)
    done = join(lab, newcomer, token)
    assert done.returncode == 0, done.stderr
    found = load_credentials(pki_folder(newcomer.parent))
    assert found.identity.uri == f"vdc://{authority_of(lab).cluster}/host/h4"
    assert found.authority is None, "the cluster's key is for a host that the cluster knows"

    assert code_of(join(lab, newcomer, token)) == "already-a-member"
    shutil.rmtree(pki_folder(newcomer.parent))
    assert code_of(join(lab, newcomer, token)) == "token-used"


def test_no_other_token_makes_a_member(lab: Lab, newcomer: Path) -> None:
    token = new_token(lab)
    head, identifier, secret, *rest = token.split(".")
    forged = ".".join([head, identifier, secret[::-1], *rest])
    assert code_of(join(lab, newcomer, forged)) == "token-invalid"
    other = ".".join([head, identifier, secret, rest[0][::-1], *rest[1:]])
    assert code_of(join(lab, newcomer, other)) in ("authority-mismatch", "token-invalid")
    short = new_token(lab, "--ttl", "1s")
    wait_for(lambda: code_of(join(lab, newcomer, short)) == "token-expired", 10, "it has expired", every_s=1)
    document = yaml.safe_load(newcomer.read_text())
    document["host"] = "h1"
    newcomer.write_text(yaml.safe_dump(document))
    assert code_of(join(lab, newcomer, token)) == "host-known"


def test_a_user_comes_and_goes(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "alice.yaml"
    lab.ok("cluster", "user", "add", "alice", "--role", "operator", "-o", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    context = Path(tmp_path / "contexts.yaml")
    imported = vdc(lab, context, "context", "import", str(file))
    assert imported.returncode == 0, imported.stderr
    assert vdc(lab, context, "get", "nodes").returncode == 0
    refused = vdc(lab, context, "node", "remove", "h9")
    assert "this needs the role admin; alice is operator (role-missing)" in refused.stderr
    lab.ok("cluster", "user", "remove", "alice")
    wait_for(
        lambda: "(certificate-revoked)" in vdc(lab, context, "get", "nodes").stderr,
        10,
        "alice is out",
        every_s=1,
    )


def test_a_stolen_disk_is_worth_nothing_once_its_host_is_removed(
    own_lab: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = own_lab("s", hosts=3, witness=True)
    stolen = tmp_path / "stolen"
    shutil.copytree(host_folder(lab, "h3"), stolen)
    url = api_url(lab, "h1")
    elsewhere = ask(lab, "client", stolen, "POST", url + "/v1/peer/endophytes/web/freeze", {"epoch": 1})
    assert (elsewhere.status, elsewhere.code) == (403, "wrong-host")

    lab.fault("power-off", "h3")
    wait_for(lambda: "h3" not in alive(lab), 20, "h3 is missed")
    lab.ok("node", "remove", "h3")
    wait_for(
        lambda: ask(lab, "client", stolen, "GET", url + "/v1/health").code == "certificate-revoked",
        20, "what h3 showed is revoked", every_s=0.5,
    )  # fmt: skip
    assert (
        ask(lab, "client", stolen, "POST", etcd_url(lab, "h1") + "/v3/kv/range", {"key": "Lw=="}).status == 0
    )


def test_a_recorded_conversation_says_nothing_again(lab: Lab, tmp_path: Path) -> None:
    """What a client sent, byte for byte, on a new connection: the server has chosen other keys meanwhile."""
    folder = save_person(tmp_path / "root", person(lab, Role.ADMIN, "root3"))
    url = api_url(lab, "h1")
    argv = lab_api.exec_argv(
        lab.name, "client", [sys.executable, "-I", "-S", str(REPLAY), url, "/v1/nodes", str(folder)]
    )
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    found = json.loads(done.stdout)
    assert found["first"].startswith("HTTP/1.1 200"), found
    assert "HTTP" not in found["again"], found


def test_contexts_hold_no_key_that_others_can_read(lab: Lab, tmp_path: Path) -> None:
    context = save_context(tmp_path / "context.yaml", [api_url(lab, "h1")], person(lab, Role.VIEWER))
    context.chmod(0o644)
    assert "(key-exposed)" in vdc(lab, context, "get", "nodes").stderr
