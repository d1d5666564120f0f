"""Who gets an answer from a host, and which: by what is shown, from where, and in which role."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from labcredentials import (
    api_url,
    ask,
    ask_as_host,
    authority_of,
    etcd_url,
    host_folder,
    save_context,
    save_person,
)
from testlab import VM, Lab, wait_for

from vdc.lab import api as lab_api
from vdc.model.identity import USER_ROLES, Role
from vdc.security.authority import Authority
from vdc.security.cluster import issue_user
from vdc.security.credentials import UserCredentials

DAY = timedelta(days=1)
# The least role for each; what a role does not reach is refused with that role's name.
COMMANDS = {
    ("get", "nodes"): Role.VIEWER,
    ("create", "web", "--no-protect"): Role.OPERATOR,
    ("delete", "endophyte", "web"): Role.OPERATOR,
    ("node", "remove", "h9"): Role.ADMIN,
}


def person(lab: Lab, role: Role, name: str = "alice") -> UserCredentials:
    return issue_user(authority_of(lab), name=name, role=role, now=datetime.now(UTC))


def vdc(lab: Lab, context: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line inside the client's namespace, where only the network leads to an agent."""
    program = str(Path(sys.executable).with_name("vdc"))
    argv = lab_api.exec_argv(lab.name, "client", ["env", f"VDC_CONFIG={context}", program, *arguments])
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_the_administrators_context_works_inside_the_lab(lab: Lab) -> None:
    done = vdc(lab, lab.plan.admin_file, "get", "nodes", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert {node["host"]["name"] for node in json.loads(done.stdout)["items"]} == set(lab.hosts)


def test_who_shows_nothing_or_nothing_valid_is_told_so(lab: Lab, tmp_path: Path) -> None:
    authority, now = authority_of(lab), datetime.now(UTC)
    url = api_url(lab, "h1") + "/v1/nodes"

    def answer(shown: Path | None) -> tuple[int, str]:
        found = ask(lab, "client", shown, "GET", url)
        return found.status, found.code

    assert answer(None) == (401, "certificate-missing")
    old = issue_user(authority, name="old", role=Role.ADMIN, now=now - 2 * DAY, valid_for=DAY)
    assert answer(save_person(tmp_path / "old", old)) == (401, "certificate-expired")

    stranger = Authority.create(authority.cluster, now)
    eve = issue_user(stranger, name="eve", role=Role.ADMIN, now=now, bundle_pem=authority.pem)
    assert answer(save_person(tmp_path / "eve", eve)) == (0, "")
    context = save_context(tmp_path / "eve.yaml", [api_url(lab, "h1")], eve)
    done = vdc(lab, context, "get", "nodes")
    assert done.returncode == 1 and done.stderr.splitlines()[0].endswith("(certificate-foreign)"), done.stderr

    mallory = issue_user(stranger, name="mallory", role=Role.ADMIN, now=now)
    context = save_context(tmp_path / "mallory.yaml", [api_url(lab, "h1")], mallory)
    done = vdc(lab, context, "get", "nodes")
    assert done.stderr.splitlines()[0].endswith("(certificate-foreign)"), done.stderr


def test_a_revoked_certificate_counts_no_more(lab: Lab, tmp_path: Path) -> None:
    bob = person(lab, Role.OPERATOR, "bob")
    folder, url = save_person(tmp_path / "bob", bob), api_url(lab, "h2") + "/v1/nodes"
    assert ask(lab, "client", folder, "GET", url).status == 200
    serial = _serial(bob)
    revoke = ask(
        lab, "client", save_person(tmp_path / "root", person(lab, Role.ADMIN, "root2")), "DELETE",
        f"{api_url(lab, 'h1')}/v1/certificates/{serial}",
    )  # fmt: skip
    assert revoke.status == 200, revoke
    wait_for(lambda: ask(lab, "client", folder, "GET", url).code == "certificate-revoked", 10, "revoked")


@pytest.mark.parametrize("role", USER_ROLES)
def test_each_role_does_what_it_includes(lab: Lab, role: Role, tmp_path: Path) -> None:
    endpoints = [api_url(lab, host) for host in lab.hosts]
    context = save_context(tmp_path / "context.yaml", endpoints, person(lab, role))
    for command, least in COMMANDS.items():
        done = vdc(lab, context, *command)
        refused = f"this needs the role {least}; alice is {role} (role-missing)"
        assert (refused in done.stderr) is not role.includes(least), (command, done.stderr)


def test_only_an_administrator_forces_a_promotion(lab: Lab, tmp_path: Path) -> None:
    lab.create("web", "--no-protect")
    folder = save_person(tmp_path / "alice", person(lab, Role.OPERATOR))
    url = api_url(lab, lab.view("web").status.primary.host) + "/v1/endophytes/web/promote"  # type: ignore[union-attr]
    answer = ask(lab, "client", folder, "POST", url, {"force": True, "confirm": "web"})
    assert (answer.status, answer.code) == (403, "role-missing")
    assert answer.body["message"] == "this needs the role admin; alice is operator"


def test_a_host_acts_only_as_itself_and_only_from_itself(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    other = next(host for host in lab.hosts if host not in (vm.primary, vm.secondary))
    freeze = "/v1/peer/endophytes/web/freeze"
    for claimed, code in ((vm.primary, "wrong-host"), (other, "not-partner")):
        body = {"epoch": vm.epoch, "from_host": claimed}
        answer = ask_as_host(lab, other, vm.secondary, "POST", freeze, body)
        assert (answer.status, answer.code) == (403, code), answer
    asked = {"epoch": vm.epoch, "from_host": vm.primary}
    stolen = ask(
        lab, "client", host_folder(lab, vm.primary), "POST", api_url(lab, vm.secondary) + freeze, asked
    )
    assert (stolen.status, stolen.code) == (403, "wrong-host")
    answer = ask_as_host(lab, other, vm.primary, "GET", "/v1/endophytes")
    assert (answer.status, answer.code) == (403, "role-missing")


def test_etcd_admits_no_person(lab: Lab, tmp_path: Path) -> None:
    url = etcd_url(lab, "h1") + "/v3/kv/range"
    body = {"key": "Lw=="}
    assert ask_as_host_etcd(lab, "h1", url, body) == 200
    admin = save_person(tmp_path / "root", person(lab, Role.ADMIN, "root"))
    for shown in (admin, None):
        assert ask(lab, "client", shown, "POST", url, body).status == 0


def ask_as_host_etcd(lab: Lab, host: str, url: str, body: object) -> int:
    return ask(lab, host, host_folder(lab, host), "POST", url, body).status


def test_no_port_of_a_host_answers_in_clear(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    protected_vm("web")
    for host in lab.hosts:
        argv = lab_api.exec_argv(lab.name, host, [sys.executable, "-I", "-S", "-c", _PLAIN])
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        found = json.loads(done.stdout)
        assert {7379, 7380, 7400} <= {port for _, port, _ in found}, found
        answered = [one for one in found if "HTTP/1" in one[2] or "{" in one[2]]
        assert not answered, f"{host} answers in clear: {answered}"


# Every TCP socket that listens in this namespace is asked for /v1/health in clear.
_PLAIN = """
import json, socket
found = []
for line in open("/proc/net/tcp").read().splitlines()[1:]:
    local, state = line.split()[1], line.split()[3]
    if state != "0A":
        continue
    address, port = local.split(":")
    host = socket.inet_ntoa(bytes.fromhex(address)[::-1])
    try:
        with socket.create_connection((host if host != "0.0.0.0" else "127.0.0.1", int(port, 16)), 2) as sock:
            sock.settimeout(2)
            sock.sendall(b"GET /v1/health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
            answer = sock.recv(4096)
    except OSError as error:
        answer = str(error).encode()
    found.append((host, int(port, 16), answer.decode("latin-1")[:200]))
print(json.dumps(found))
"""


def _serial(who: UserCredentials) -> str:
    from vdc.security.certificates import read_certificate

    return read_certificate(who.certificate_pem).serial
