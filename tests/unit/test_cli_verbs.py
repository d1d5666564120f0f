"""Verbs, images and the doctor: what each asks of the agents, and agents that do not answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_support import ALONE, Capture, Cluster, cluster, vdc

from vdc.api.context import put_context

__all__ = ["cluster"]


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("start", "a"), ("run", {"state": "running", "force": False})),
        (("stop", "a", "--force"), ("run", {"state": "stopped", "force": True})),
        (("pause", "a"), ("run", {"state": "paused", "force": False})),
        (("restart", "a"), ("restart", {"force": False})),
        (("protect", "a", "--wait"), ("protect", {"enabled": True})),
        (("unprotect", "a"), ("protect", {"enabled": False})),
        (
            ("promote", "replica"),
            ("promote", ("a", {"to": None, "force": False, "confirm": ""})),
        ),
        (
            ("promote", "replica", "a", "--to", "h2"),
            ("promote", ("a", {"to": "h2", "force": False, "confirm": ""})),
        ),
    ],
)
def test_verbs_send_what_they_say(
    cluster: Cluster, capsys: Capture, arguments: tuple[str, ...], asked: Any
) -> None:
    cluster.add("a")
    code, out, _ = vdc(capsys, *arguments)
    assert code == 0 and out.startswith("endophyte/a")
    assert cluster.asked == [asked]


HOSTILE = "QEMU says \x1b[2J\x9b2J\x7f\u2028"


@pytest.mark.parametrize(
    "arguments",
    [
        ("start", "a", "--wait"),
        ("protect", "a", "--wait"),
        ("get", "ep", "a"),
        ("get", "ep", "a", "-o", "wide"),
        ("get", "ep", "a", "-o", "json"),
        ("get", "ep", "a", "-o", "yaml"),
        ("describe", "ep", "a"),
    ],
)
def test_no_terminal_obeys_what_comes_from_a_guest(
    cluster: Cluster, capsys: Capture, arguments: tuple[str, ...]
) -> None:
    cluster.add("a", sentence=HOSTILE)
    code, out, err = vdc(capsys, *arguments)
    assert code == 0 and not set(out + err) & {"\x1b", "\x9b", "\u2028"}
    if "json" in arguments:
        assert json.loads(out)["status"]["sentence"] == HOSTILE


def test_promote_needs_a_name_where_several_could_be_meant(cluster: Cluster, capsys: Capture) -> None:
    code, _, err = vdc(capsys, "promote", "replica")
    assert code == 1 and "(nothing-protected)" in err
    cluster.add("a")
    cluster.add("b")
    cluster.add("alone", **ALONE)
    code, _, err = vdc(capsys, "promote", "replica")
    assert code == 2 and "(name-needed)" in err
    assert "a (lockstep), b (lockstep)" in err and "alone" not in err
    assert cluster.asked == []


def test_an_image_is_sent_once_named_listed_and_removed(
    cluster: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes((b"\xeb".ljust(510, b"\0") + b"\x55\xaa") * 4096)
    code, out, _ = vdc(capsys, "image", "import", str(disk), "--name", "me/disk")
    assert (code, out) == (0, "image/me/disk:latest imported (1 of 1 files sent)\n")
    assert vdc(capsys, "image", "import", str(disk), "--name", "me/disk:2")[1].endswith(
        "(0 of 1 files sent)\n"
    )
    assert "me/disk:latest" in vdc(capsys, "image", "ls")[1]
    assert "2MiB for the guest" in vdc(capsys, "image", "describe", "me/disk")[1]
    assert vdc(capsys, "image", "rm", "me/disk")[1] == "image/me/disk:latest removed\n"
    assert vdc(capsys, "delete", "image", "me/disk:2")[1] == "image/me/disk:2 deleted\n"
    assert vdc(capsys, "image", "rm", "me/disk")[0] == 1


def test_doctor_asks_every_agent_and_counts_what_is_missing(
    cluster: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    out = vdc(capsys, "doctor")[1]
    assert "no KVM" in out and "(here)" in out
    put_context("test", [f"unix://{tmp_path}/api.sock", f"unix://{tmp_path}/absent.sock"])
    code, out, _ = vdc(capsys, "doctor", "-o", "json")
    assert code == 1
    hosts = [item["host"] for item in json.loads(out)["items"]]
    assert hosts == ["(here)", "h1", "?"]


def test_an_agent_that_is_down_is_one_line(cluster: Cluster, capsys: Capture, tmp_path: Path) -> None:
    put_context("other", [f"unix://{tmp_path}/absent.sock"])
    for arguments in (
        ("get", "ep"),
        ("create", "a"),
        ("delete", "ep", "a"),
        ("promote", "replica"),
    ):
        code, out, err = vdc(capsys, *arguments)
        assert (code, out) == (1, "")
        assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]
        assert "(agent-unreachable)" in err
    assert vdc(capsys, "--context", "test", "get", "ep")[0] == 0
    assert vdc(capsys, "get", "ep", "--context", "test")[0] == 0
