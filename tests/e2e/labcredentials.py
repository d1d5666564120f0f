"""Asking the lab's agents and etcd members as somebody: a host, a person, one whose certificate is not right."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdc.api.context import Contexts, new_context, save_contexts
from vdc.lab import api as lab_api
from vdc.lab.credentials import API_PORT
from vdc.lab.plan import CLIENT_OCTET, Underlay
from vdc.model.identity import Role
from vdc.security.authority import Authority
from vdc.security.cluster import issue_host_folder
from vdc.security.credentials import UserCredentials
from vdc.security.folder import is_member, load_credentials, pki_folder

if TYPE_CHECKING:
    from testlab import Lab

PROGRAM = Path(__file__).with_name("labask.py")
ETCD_PORT = 7379


@dataclass(frozen=True)
class Answer:
    """`status` is 0 where there was none; then `body` says why."""

    status: int
    body: Any

    @property
    def code(self) -> str:
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""


def authority_of(lab: Lab) -> Authority:
    """The cluster's, which every full host has."""
    found = load_credentials(host_folder(lab, lab.hosts[0])).authority
    assert found is not None
    return found


def host_folder(lab: Lab, host: str) -> Path:
    """What a host shows."""
    return pki_folder(lab.plan.host(host).state_dir)


def api_url(lab: Lab, host: str) -> str:
    return f"https://{lab.plan.host(host).address(Underlay.MANAGEMENT)}:{API_PORT}"


def etcd_url(lab: Lab, host: str) -> str:
    return f"https://{lab.plan.host(host).address(Underlay.MANAGEMENT)}:{ETCD_PORT}"


def ask(
    lab: Lab, place: str, folder: Path | None, method: str, url: str, body: object = None, **headers: str
) -> Answer:
    """Ask from `place` (a host, or client) with what lies in `folder`; None: nothing is shown, nobody verified."""
    words = [sys.executable, "-I", "-S", str(PROGRAM), url, method, str(folder or "-")]
    words += [json.dumps(body) if body is not None else "", *(f"{k}={v}" for k, v in headers.items())]
    argv = lab_api.exec_argv(lab.name, place, words)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    found = json.loads(done.stdout)
    return Answer(found["status"], found["body"])


def ask_as_host(lab: Lab, host: str, other: str, method: str, path: str, body: object = None) -> Answer:
    """As a host's own agent asks another one."""
    return ask(lab, host, host_folder(lab, host), method, api_url(lab, other) + path, body)


def save_person(folder: Path, person: UserCredentials) -> Path:
    """A person's credentials where `ask` finds them."""
    folder.mkdir(exist_ok=True)
    (folder / "ca.crt").write_text(person.authority_pem)
    (folder / "host.crt").write_text(person.certificate_pem)
    (folder / "host.key").write_text(person.key_pem)
    return folder


def save_context(path: Path, endpoints: list[str], person: UserCredentials) -> Path:
    """A context file for the command line."""
    context = new_context(endpoints, person)
    save_contexts(Contexts(contexts={"test": context}, current="test"), path)
    return path


def watcher_folder(lab: Lab) -> Path:
    """Credentials that etcd admits from the client's address, and that no agent knows as a host."""
    from datetime import UTC, datetime

    folder = lab.plan.folder / "watcher"
    if not is_member(folder):
        issue_host_folder(
            authority_of(lab), folder, name="watcher", role=Role.WITNESS, now=datetime.now(UTC),
            addresses=[str(Underlay.MANAGEMENT.address(CLIENT_OCTET))],
        )  # fmt: skip
    return folder
