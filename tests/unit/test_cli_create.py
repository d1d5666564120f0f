"""create, apply and delete: what is sent, what is waited for, what is said where it does not come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import ALONE, LOCKSTEP, PENDING, Capture, Cluster, cluster, manifest_of, vdc

from vdc.cli import waiting
from vdc.model.endophyte import Phase
from vdc.model.errors import NotFoundError
from vdc.model.guest import ProgramStatus

__all__ = ["cluster"]


def test_create_sends_what_was_asked_for(cluster: Cluster, capsys: Capture) -> None:
    options = ["--image", "me/x", "--cpus", "2", "--memory", "1GiB", "--disk", "5GiB", "--nodes", "2"]
    code, out, err = vdc(capsys, "create", "web", *options, "--address", "10.77.0.50")
    assert (code, out, err) == (0, "endophyte/web created\n", "")
    spec = cluster.asked[0][1].spec
    assert (spec.image, spec.resources.cpus, spec.resources.memory) == ("me/x:latest", 2, 2**30)
    assert (spec.disks[0].size, spec.virtual_computer.dedicated_nodes) == (5 * 2**30, 2)
    assert str(spec.networks[0].address) == "10.77.0.50"
    assert spec.wants_protection


def test_create_without_protection_by_the_name_of_a_template(cluster: Cluster, capsys: Capture) -> None:
    assert vdc(capsys, "create", "windows-desktop", "--no-protect", "--image", "mycelium/mini")[0] == 0
    spec = cluster.asked[0][1].spec
    assert (spec.tpm, spec.firmware.value, spec.resources.cpus) == (True, "uefi", 2)
    assert not spec.wants_protection and spec.image == "mycelium/mini:latest"


def test_keys_and_a_user_are_for_cloud_init(cluster: Cluster, capsys: Capture, tmp_path: Path) -> None:
    one, other = (
        f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMg0u7Yz0XrQ3JrZyZkqkKcJ1h3G0yq2eV8yq1o9xYz{n}" for n in "AB"
    )
    (tmp_path / "keys").write_text(f"# mine\n\n{one} me@home\n{other}\n")
    options = ["--ssh-key", str(tmp_path / "keys"), "--ssh-key", f"{other} again", "--user", "anna"]
    assert vdc(capsys, "create", "web", "--image", "debian", *options)[0] == 0
    given = cluster.asked[0][1].spec.cloud_init
    assert given.user == "anna"
    assert given.ssh_authorized_keys == (f"{one} me@home", other, f"{other} again")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff\xfe", "it is not text"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "is a private key"),
        (b"# nothing\n", "there is no key in"),
        (b"ssh-ed25519 nonsense\n", "is not an SSH public key"),
    ],
)
def test_what_is_no_public_key_is_told_in_one_line(
    cluster: Cluster, capsys: Capture, tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    code, _, err = vdc(capsys, "create", "web", "--image", "debian", "--ssh-key", str(tmp_path / "key"))
    assert code in (1, 2) and words in err.splitlines()[0]
    assert cluster.asked == []


def test_an_image_that_a_recipe_makes_is_told_with_it(cluster: Cluster, capsys: Capture) -> None:
    cluster.refusal = NotFoundError("no image", code="image-not-found")
    _, _, err = vdc(capsys, "create", "web", "--image", "debian")
    assert "vdc image build debian" in err.splitlines()[0]


def test_a_missing_image_says_which_and_how_to_get_one(cluster: Cluster, capsys: Capture) -> None:
    cluster.refusal = NotFoundError("no image", code="image-not-found")
    code, _, err = vdc(capsys, "create", "windows-desktop")
    first, hint = err.splitlines()
    assert code == 1 and first.endswith("(image-not-found)")
    assert "mycelium/windows-11:latest" in first and "template windows-desktop" in first
    assert "vdc image import" in first and "--image" in hint


def test_dry_run_prints_a_manifest_that_apply_takes(
    cluster: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    code, out, _ = vdc(capsys, "create", "db", "--dry-run", "-o", "yaml")
    assert code == 0 and cluster.asked == []
    assert yaml.safe_load(out)["metadata"]["name"] == "db"
    (tmp_path / "db.yaml").write_text(out)
    assert vdc(capsys, "apply", "-f", str(tmp_path / "db.yaml"))[1] == "endophyte/db created\n"


def test_create_wait_returns_when_it_is_in_lockstep(cluster: Cluster, capsys: Capture) -> None:
    code, out, _ = vdc(capsys, "create", "web", "--wait", "--timeout", "5")
    assert code == 0
    assert out.splitlines()[1] == f"endophyte/web is running in lockstep: {LOCKSTEP['sentence']}"
    code, out, _ = vdc(capsys, "create", "other", "--wait", "-o", "json")
    assert json.loads(out)["status"]["protection"] == "lockstep"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (PENDING, "wait-timeout"),
        (ALONE, "wait-timeout"),
        ({**PENDING, "phase": Phase.FAILED}, "endophyte-failed"),
    ],
)
def test_create_wait_says_what_is_missing(
    cluster: Cluster, capsys: Capture, status: dict[str, Any], code: str
) -> None:
    cluster.status_of_new = status
    exit_code, out, err = vdc(capsys, "create", "web", "--wait", "--timeout", "0.3")
    assert (exit_code, out) == (1, "endophyte/web created\n")
    assert f"({code})" in err and (status.get("sentence") or LOCKSTEP["sentence"]) in err


def test_without_protection_running_is_enough(cluster: Cluster, capsys: Capture) -> None:
    cluster.status_of_new = ALONE
    assert vdc(capsys, "create", "web", "--no-protect", "--wait", "--timeout", "5")[0] == 0


def test_an_image_of_a_container_makes_one(cluster: Cluster, capsys: Capture) -> None:
    cluster.containers.add("docker.io/library/redis:7")
    code, out, _ = vdc(capsys, "create", "db", "--image", "docker.io/library/redis:7", "--memory", "256MiB")
    assert (code, out) == (0, "endophyte/db created\n")
    assert cluster.asked[-1][1].spec.virtual_computer.type == "container"


WELL = ProgramStatus(state="running", ready=True, pid=7)
CRASHING = WELL.with_(
    state="waiting", ready=False, exit_code=1, restarts=4, reason="it ended with the exit code 1"
)
GOALS = [
    (None, ""),
    (WELL, "arrived"),
    (WELL.with_(ready=False, reason="GET /: 503"), "wait-timeout"),
    (WELL.with_(state="ended", ready=False, exit_code=0), "arrived"),
    (WELL.with_(state="ended", ready=False, exit_code=3), "endophyte-failed"),
    (CRASHING, "wait-timeout"),
]


@pytest.mark.parametrize(("program", "outcome"), GOALS)
def test_waiting_for_a_container_is_waiting_for_its_program(
    cluster: Cluster,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    program: ProgramStatus | None,
    outcome: str,
) -> None:
    monkeypatch.setattr(waiting, "PROGRAM_LASTS_S", 0.1)
    cluster.containers.add("me/db:1")
    cluster.status_of_new = {**LOCKSTEP, "program": program}
    cluster.output = "2026-11-23T14:00:01.1Z stderr F fatal: no \x1b[31mdisk\n"
    code, _, err = vdc(capsys, "create", "db", "--image", "me/db:1", "--wait", "--timeout", "0.3")
    assert (code == 0) is (outcome == "arrived")
    if outcome and code:
        assert f"({outcome})" in err and "it wrote last: fatal: no  [31mdisk" in err


def test_a_program_that_ends_at_once_has_not_arrived(
    cluster: Cluster, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PROGRAM_LASTS_S", 0.2)
    cluster.containers.add("me/db:1")
    cluster.status_of_new = {**LOCKSTEP, "program": WELL}
    ended = WELL.with_(state="ended", ready=False, exit_code=3, reason="exit code 3")

    def end_it(*_: object) -> str:
        view = cluster.views["db"]
        cluster.views["db"] = view.with_(status=view.status.with_(program=ended))
        return ""

    monkeypatch.setattr(waiting.StatusLine, "show", end_it)
    code, _, err = vdc(capsys, "create", "db", "--image", "me/db:1", "--wait", "--timeout", "5")
    assert code == 1 and "(endophyte-failed)" in err


def test_a_taken_name_is_an_error_and_a_stuck_create_can_be_repeated(
    cluster: Cluster, capsys: Capture
) -> None:
    assert vdc(capsys, "create", "web")[0] == 0
    code, _, err = vdc(capsys, "create", "web")
    assert code == 1 and "(name-taken)" in err
    cluster.status_of_new = PENDING
    assert vdc(capsys, "create", "stuck")[0] == 0
    assert vdc(capsys, "create", "stuck")[:2] == (0, "endophyte/stuck created\n")
    assert vdc(capsys, "create", "stuck", "--cpus", "3")[0] == 1


def test_apply_gives_one_result_per_object_and_hides_none(
    cluster: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    texts = [
        manifest_of("good").to_json(),
        manifest_of("bad").to_json(),
        '{"kind": "Service", "metadata": {"name": "s"}}',
        manifest_of("later").to_json(),
        manifest_of("good").to_json(),
    ]
    (tmp_path / "all.yaml").write_text("\n---\n".join(texts))
    code, out, err = vdc(capsys, "apply", "-f", str(tmp_path / "all.yaml"))
    assert code == 1
    assert out == "endophyte/good created\nendophyte/later created\n"
    codes = [line.rsplit("(", 1)[1] for line in err.splitlines() if line.startswith("error:")]
    assert codes == ["no-capacity)", "kind-unsupported)", "manifest-duplicate)"]


def test_apply_of_broken_manifests_alone_is_exit_code_2(
    cluster: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("kind: Service\nmetadata: {name: s}")
    code, out, err = vdc(capsys, "apply", "-f", str(tmp_path))
    assert (code, out) == (2, "") and "(kind-unsupported)" in err
    assert cluster.asked == []


def test_apply_dry_run_and_wait(cluster: Cluster, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(manifest_of("a").to_json())
    assert vdc(capsys, "apply", "-f", str(tmp_path), "--dry-run")[1] == "endophyte/a created (dry run)\n"
    assert cluster.asked == [("apply", ("a", True))]
    code, out, _ = vdc(capsys, "apply", "-f", str(tmp_path), "--wait", "--timeout", "5")
    assert code == 0 and "is running in lockstep" in out
    cluster.status_of_new = ALONE
    code, _, err = vdc(capsys, "apply", "-f", str(tmp_path), "--wait", "--timeout", "0.3")
    assert code == 1 and "(wait-timeout)" in err


def test_delete_waits_until_it_is_gone_and_can_ignore_what_is_not_there(
    cluster: Cluster, capsys: Capture
) -> None:
    cluster.add("a")
    cluster.add("b")
    assert vdc(capsys, "delete", "ep", "a", "b")[:2] == (0, "endophyte/a deleted\nendophyte/b deleted\n")
    code, _, err = vdc(capsys, "delete", "ep", "a")
    assert code == 1 and "(endophyte-not-found)" in err
    assert vdc(capsys, "delete", "ep", "a", "--ignore-not-found") == (0, "", "")


def test_delete_by_manifest(cluster: Cluster, capsys: Capture, tmp_path: Path) -> None:
    cluster.add("a")
    (tmp_path / "a.json").write_text(manifest_of("a").to_json())
    assert vdc(capsys, "delete", "-f", str(tmp_path))[1] == "endophyte/a deleted\n"
