"""`vdc audit`: what it asks for, how it prints, and its exit code where the log was tampered with."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from audit_support import Chain
from cli_support import Capture, Cluster, cluster, vdc

from vdc.api import models as wire
from vdc.api.client import ApiClient
from vdc.cli.commands import audit as command
from vdc.model.audit import RememberedHead
from vdc.model.audit_chain import Damage, DamageKind

__all__ = ["cluster"]
CHAIN = Chain(1203)
VERDICT = wire.AuditVerdict(
    is_intact=True, first=1, last=12, hash="ab" * 32,
    remembered=(RememberedHead(host="h1", seq=12), RememberedHead(host="h2")),
)  # fmt: skip


@pytest.fixture
def log(cluster: Cluster) -> Cluster:
    cluster.audit = [json.loads(text) for text in CHAIN.texts.values()]
    return cluster


def test_list(log: Cluster, capsys: Capture) -> None:
    log.audit = log.audit[:2]
    log.audit[1] |= {"result": "role-missing", "count": 30, "object": "x\x1b[31my"}
    code, out, _ = vdc(capsys, "audit", "list")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == ["SEQ", "TIME", "WHO", "FROM", "WHAT", "OBJECT", "RESULT", "EPOCH", "HOST"]
    assert lines[1] == [
        "1", "2030-01-01", "00:00:00", "operator/alice", "10.0.0.9", "promote_endophyte", "web", "ok", "-", "h1",
    ]  # fmt: skip
    assert "role-missing (30 times)" in out and "\x1b" not in out


def test_an_empty_list_is_a_sentence(log: Cluster, capsys: Capture) -> None:
    log.audit = []
    assert vdc(capsys, "audit", "list") == (0, "", "there are no such entries\n")


def test_list_asks_for_what_it_is_asked(log: Cluster, capsys: Capture) -> None:
    arguments = ("--who", "alice", "--object", "web", "--since", "7", "--limit", "2")
    code, out, _ = vdc(capsys, "audit", "list", *arguments, "-o", "json")
    assert code == 0 and [item["seq"] for item in json.loads(out)["items"]] == [7, 8]
    assert log.asked == [("audit", {"who": "alice", "object": "web", "since": "7", "limit": "2"})]


def test_watching_goes_on_from_where_the_list_ended(log: Cluster, capsys: Capture) -> None:
    class EnoughError(Exception):
        pass

    async def look() -> list[int]:
        found: list[int] = []
        async with ApiClient(_endpoint()) as api:
            try:
                async for items in command._following(api, 101, {}):
                    found += [item["seq"] for item in items]
                    if len(found) == 1103:
                        raise EnoughError
            except EnoughError:
                return found
        return []

    assert asyncio.run(look()) == list(range(101, 1204))


def _endpoint() -> Any:
    from vdc.cli.session import chosen_context

    return chosen_context()[1].endpoints


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "--since", "0"),
        ("list", "--limit", "1001"),
        ("export", "--since", "x"),
        ("verify", "/no/file"),
        (),
    ],
)
def test_wrong_words(log: Cluster, capsys: Capture, arguments: tuple[str, ...]) -> None:
    assert vdc(capsys, "audit", *arguments)[0] == 2 and log.asked == []


# ---- export, and checking it


def test_an_export_is_what_is_stored_and_is_found_whole(
    log: Cluster, capsys: Capture, tmp_path: Path
) -> None:
    code, out, _ = vdc(capsys, "audit", "export")
    assert code == 0 and out.splitlines() == list(CHAIN.texts.values())
    path = tmp_path / "audit.jsonl"
    path.write_text(out)
    code, out, _ = vdc(capsys, "audit", "verify", str(path))
    assert code == 0
    assert out == f"intact: entries 1 to 1203, the last with hash {CHAIN.head.hash[:16]}\n"


def test_an_export_of_the_end(log: Cluster, capsys: Capture, tmp_path: Path) -> None:
    code, out, _ = vdc(capsys, "audit", "export", "--since", "1200")
    path = tmp_path / "audit.jsonl"
    path.write_text(out)
    code, out, _ = vdc(capsys, "audit", "verify", str(path))
    assert code == 0 and out.splitlines()[1] == "note: the file begins with entry 1200"


def test_a_tampered_export(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster is asked."""
    monkeypatch.setenv("VDC_CONFIG", str(tmp_path / "none.yaml"))
    lines = list(CHAIN.texts.values())[:9]
    lines[4] = lines[4].replace("alice", "bobby")
    path = tmp_path / "audit.jsonl"
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\x1b\n")
    code, out, _ = vdc(capsys, "audit", "verify", str(path))
    assert code == 1
    assert out.splitlines() == [
        f"TAMPERED: entries 1 to 9, the last with hash {CHAIN.entries[9].hash[:16]}",
        "  line 10 is no entry of an audit log",
        "  entry 5 was changed: its content does not match its hash",
    ]
    code, out, _ = vdc(capsys, "audit", "verify", str(path), "-o", "json")
    assert code == 1 and [one["kind"] for one in json.loads(out)["damage"]] == ["unreadable", "changed"]


def test_an_empty_file(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").write_text("")
    assert vdc(capsys, "audit", "verify", str(tmp_path / "audit.jsonl"))[:2] == (
        0,
        "intact: the audit log is empty\n",
    )


# ---- the cluster's verdict


def test_verify(cluster: Cluster, capsys: Capture) -> None:
    cluster.verdict = VERDICT
    code, out, _ = vdc(capsys, "audit", "verify")
    assert code == 0
    assert out.splitlines() == [
        "intact: entries 1 to 12, the last with hash abababababababab",
        "  remembered by the hosts: h1 12, h2 -",
    ]


def test_verify_of_a_tampered_log(cluster: Cluster, capsys: Capture) -> None:
    damage = Damage(kind=DamageKind.MISSING, seq=3, sentence="entry 3 is missing")
    cluster.verdict = VERDICT.with_(is_intact=False, damage=(damage,), notes=("h3 does not answer",))
    code, out, _ = vdc(capsys, "audit", "verify")
    assert code == 1 and out.splitlines()[:2] == [
        "TAMPERED: entries 1 to 12, the last with hash abababababababab", "  entry 3 is missing",
    ]  # fmt: skip
    assert out.splitlines()[-1] == "note: h3 does not answer"
    assert json.loads(vdc(capsys, "audit", "verify", "-o", "json")[1])["is_intact"] is False
