"""`vdc cluster init|token|user|ca|certificates|revoke|renew` and `vdc context` against real handlers."""

from __future__ import annotations

import asyncio
import json
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cli_support import vdc
from identity_world import World, admin
from pki_support import CLUSTER

from vdc.api.context import load_contexts, put_context
from vdc.security.certificates import read_certificate
from vdc.security.folder import load_credentials
from vdc.security.tokens import parse_token

Capture = pytest.CaptureFixture[str]


class Running:
    """A World in a thread of its own, so that a command can run its own event loop."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.world = World(folder)
        self.do(self.world.found("h1", "h2"))

    def do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def close(self) -> None:
        self.do(self.world.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VDC_CONFIG", str(tmp_path / "etc" / "config.yaml"))
    monkeypatch.delenv("VDC_CONTEXT", raising=False)
    return tmp_path


@pytest.fixture
def running(home: Path) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="vdc-") as folder:
        made = Running(Path(folder))
        put_context("test", [made.do(made.world.serve("h1", admin()))])
        yield made
        made.close()


# ---- founding


def agent_file(folder: Path, **more: object) -> Path:
    path = folder / "agent.yaml"
    values = {"host": "node1", "state_dir": str(folder / "state"), "management": {"address": "192.0.2.11"}}
    path.write_text(yaml.safe_dump({**values, "network": {"cidr": "10.0.0.0/8"}, **more}))
    return path


def test_init_founds_a_cluster_and_writes_the_context(home: Path, capsys: Capture) -> None:
    file = agent_file(home, replication={"address": "198.51.100.11"})
    code, out, _ = vdc(capsys, "cluster", "init", "--config", str(file), "--admin", "carol")
    assert code == 0
    host = load_credentials(home / "state" / "pki")
    assert host.certificate.addresses == ("127.0.0.1", "192.0.2.11", "198.51.100.11")
    assert f"cluster/{host.identity.cluster} founded" in out
    contexts = load_contexts()
    assert contexts.current == f"carol@{host.identity.cluster}"
    context = contexts.contexts[contexts.current]
    assert context.endpoints == ("https://192.0.2.11:7400",)
    assert context.credentials is not None
    assert read_certificate(context.credentials.certificate_pem).identity.uri.endswith("/admin/carol")
    assert "PRIVATE" not in out


def test_init_a_second_time_is_refused_and_changes_nothing(home: Path, capsys: Capture) -> None:
    file = agent_file(home)
    assert vdc(capsys, "cluster", "init", "--config", str(file), "-o", "json")[0] == 0
    before = (home / "state" / "pki" / "ca.key").read_bytes()
    code, _, err = vdc(capsys, "cluster", "init", "--config", str(file))
    assert (code, "(already-a-member)" in err) == (1, True)
    assert (home / "state" / "pki" / "ca.key").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "config-unreadable"),
        ("x: [", "config-invalid"),
        ("host: A_B", "config-invalid"),
        ("", "config-invalid"),
    ],
)
def test_init_says_what_is_wrong_with_the_file(
    home: Path, capsys: Capture, text: str | None, code: str
) -> None:
    file = home / "agent.yaml"
    if text is not None:
        file.write_text(text)
    status, _, err = vdc(capsys, "cluster", "init", "--config", str(file))
    assert status == 1
    assert f"({code})" in err
    assert "hint:" in err


def test_init_does_not_begin_where_the_context_could_not_be_kept(home: Path, capsys: Capture) -> None:
    (home / "etc").mkdir()
    (home / "etc" / "config.yaml").write_text("- x")
    code, _, err = vdc(capsys, "cluster", "init", "--config", str(agent_file(home)))
    assert (code, "(context-invalid)" in err) == (1, True)
    assert not (home / "state").exists()


# ---- tokens


def test_a_token_is_printed_alone_so_that_a_script_can_take_it(running: Running, capsys: Capture) -> None:
    code, out, err = vdc(capsys, "cluster", "token", "create", "--role", "witness", "--ttl", "30m")
    assert (code, err.splitlines()[0][:3]) == (0, "on "), err
    assert parse_token(out).endpoint == "https://10.0.0.1:7400"
    assert "hostagent join" in err
    code, out, _ = vdc(capsys, "cluster", "token", "ls")
    assert out.split()[:5] == ["ID", "ROLE", "EXPIRES", "BY", "HOST"]
    token_id = out.splitlines()[1].split()[0]
    assert vdc(capsys, "cluster", "token", "revoke", token_id)[0] == 0
    code, _, err = vdc(capsys, "cluster", "token", "revoke", token_id)
    assert (code, "(token-not-found)" in err) == (1, True)
    code, out, _ = vdc(capsys, "cluster", "token", "create", "-o", "json")
    assert parse_token(json.loads(out)["token"])


@pytest.mark.parametrize("more", [["--ttl", "soon"], ["--ttl", "0s"], ["--role", "admin"]])
def test_a_token_that_makes_no_sense_is_not_asked_for(home: Path, capsys: Capture, more: list[str]) -> None:
    assert vdc(capsys, "cluster", "token", "create", *more)[0] == 2


def test_a_token_for_too_long_is_refused(running: Running, capsys: Capture) -> None:
    code, _, err = vdc(capsys, "cluster", "token", "create", "--ttl", "8d")
    assert (code, "(ttl-invalid)" in err) == (1, True)


# ---- users


def test_a_user_s_file_is_private_imported_and_used(running: Running, capsys: Capture, home: Path) -> None:
    file = home / "alice.yaml"
    code, out, _ = vdc(capsys, "cluster", "user", "add", "alice", "--role", "operator", "-o", str(file))
    assert code == 0
    assert "PRIVATE" not in out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert vdc(capsys, "context", "import", str(file))[:2] == (0, f"context/alice@{CLUSTER} imported\n")
    code, out, _ = vdc(capsys, "context", "ls", "-o", "json")
    rows = {row["name"]: row for row in json.loads(out)["items"]}
    mine = rows[f"alice@{CLUSTER}"]
    assert (mine["user"], mine["role"], mine["current"]) == ("alice", "operator", True)
    assert mine["endpoints"] == ["https://10.0.0.1:7400", "https://10.0.0.2:7400"]
    assert "PRIVATE" not in out
    assert vdc(capsys, "context", "use", "test")[0] == 0
    code, out, _ = vdc(capsys, "cluster", "user", "ls")
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        ["admin", "admin", "1"],
        ["alice", "operator", "1"],
    ]
    assert vdc(capsys, "cluster", "user", "remove", "alice")[1] == (
        "user/alice: root removed alice; 1 certificates revoked\n"
    )


def test_a_user_is_printed_as_a_context_file(running: Running, capsys: Capture) -> None:
    code, out, _ = vdc(capsys, "cluster", "user", "add", "bob", "--role", "viewer", "--ttl", "8h")
    assert code == 0
    assert list(yaml.safe_load(out)["contexts"]) == [f"bob@{CLUSTER}"]
    assert "client-key-data: |" in out
    code, out, err = vdc(capsys, "cluster", "user", "add", "bob", "--role", "admin")
    assert (code, out, "(user-exists)" in err) == (1, "", True)


@pytest.mark.parametrize("more", [[], ["--role", "host"], ["--role", "viewer", "--ttl", "x"]])
def test_a_user_that_makes_no_sense_is_not_asked_for(home: Path, capsys: Capture, more: list[str]) -> None:
    assert vdc(capsys, "cluster", "user", "add", "bob", *more)[0] == 2
    assert vdc(capsys, "cluster", "user", "add", "B_b", "--role", "viewer")[0] == 2


# ---- certificates and the authority


def test_a_certificate_is_found_and_revoked(running: Running, capsys: Capture) -> None:
    running.do(running.world.settle())
    listed = json.loads(vdc(capsys, "cluster", "certificates", "-o", "json")[1])["items"]
    serial = next(
        one["certificate"]["serial"] for one in listed if one["certificate"]["identity"]["name"] == "h2"
    )
    assert vdc(capsys, "cluster", "revoke", serial[:12])[1] == (
        f"root revoked the certificate {serial} of host h2\n"
    )
    line = next(line for line in vdc(capsys, "cluster", "certificates")[1].splitlines() if serial in line)
    assert "revoked" in line
    assert "(certificate-not-found)" in vdc(capsys, "cluster", "revoke", "00000000")[2]


def test_a_rotation_by_hand(running: Running, capsys: Capture) -> None:
    code, out, _ = vdc(capsys, "cluster", "ca", "show")
    assert code == 0
    assert "Rotation:  none" in out
    assert "(no-rotation)" in vdc(capsys, "cluster", "ca", "retire")[2]
    assert vdc(capsys, "cluster", "ca", "rotate")[0] == 0
    out = vdc(capsys, "cluster", "ca", "show")[1]
    assert "Waits for: h1, h2" in out
    running.do(running.world.settle(5))
    out = vdc(capsys, "cluster", "ca", "show")[1]
    assert "Old still: admin admin" in out
    assert "(authority-in-use)" in vdc(capsys, "cluster", "ca", "retire")[2]
    vdc(capsys, "cluster", "user", "remove", "admin")
    assert vdc(capsys, "cluster", "ca", "retire")[:2] == (0, "the old authority is not trusted any more\n")
    assert json.loads(vdc(capsys, "cluster", "ca", "show", "-o", "json")[1])["phase"] == "stable"


def test_the_local_socket_has_nothing_to_renew(running: Running, capsys: Capture) -> None:
    code, _, err = vdc(capsys, "cluster", "renew")
    assert (code, "(no-credentials)" in err) == (1, True)


# ---- contexts


def test_another_context_of_the_same_name_is_kept(running: Running, capsys: Capture, home: Path) -> None:
    for name in ("one", "two"):
        file = home / f"{name}.yaml"
        vdc(capsys, "cluster", "user", "add", "alice", "--role", "viewer", "-o", str(file))
        vdc(capsys, "cluster", "user", "remove", "alice")
    assert vdc(capsys, "context", "import", str(home / "one.yaml"))[0] == 0
    assert vdc(capsys, "context", "import", str(home / "one.yaml"))[0] == 0
    code, _, err = vdc(capsys, "context", "import", str(home / "two.yaml"))
    assert (code, "(context-exists)" in err) == (1, True)
    assert vdc(capsys, "context", "remove", f"alice@{CLUSTER}")[0] == 0
    assert load_contexts().current == "test"
    assert vdc(capsys, "context", "import", str(home / "two.yaml"))[0] == 0


def test_contexts_that_are_not_there_are_said_to_be(home: Path, capsys: Capture) -> None:
    assert "(context-not-found)" in vdc(capsys, "context", "use", "x")[2]
    assert "(context-not-found)" in vdc(capsys, "context", "remove", "x")[2]
    empty = home / "empty.yaml"
    empty.write_text("{}")
    assert "(context-invalid)" in vdc(capsys, "context", "import", str(empty))[2]
    code, out, err = vdc(capsys, "context", "ls")
    assert (code, out) == (0, "")
    assert "vdc context import" in err
