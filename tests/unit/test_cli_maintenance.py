"""`vdc node drain`, `resume`, `remove` and `vdc migrate`: what is sent, printed, and which exit code says what."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from cli_support import ALONE, NODE, Cluster, cluster, vdc

from vdc.api import models as wire
from vdc.cli import draining
from vdc.cli.commands.node import _drain
from vdc.model.endophyte import CopyStatus
from vdc.model.errors import RefusedError
from vdc.model.maintenance import DrainItem, DrainReport, DrainState, DrainWay, Maintenance

__all__ = ["cluster"]

Capture = pytest.CaptureFixture[str]
WISH = Maintenance(host="h1", since="2030-01-01T00:00:00Z", by="me", reason="")
WEB = DrainItem(name="web", way=DrainWay.PROMOTION, state=DrainState.WAITING, to="h2", sentence="takes over")
SOLO = DrainItem(name="solo", way=DrainWay.MIGRATION, state=DrainState.RUNNING, to="h3", sentence="is copied")
DB = DrainItem(name="db", way=DrainWay.REPLICA, state=DrainState.WAITING, to="h3", sentence="moves to h3")
STUCK = DrainItem(name="old", way=DrainWay.NONE, state=DrainState.BLOCKED, sentence="is paused")


class Maintained(Cluster):
    """A cluster whose drain reports are read from a list, the last one for ever."""

    reports: list[DrainReport]
    resumed = "h1 is used again"

    async def list_nodes(self, _: web.Request) -> Any:
        kept = [("h1", True), ("h2", False)]
        return wire.NodeList(
            items=tuple(
                NODE.with_(host=NODE.host.with_(name=name), maintenance=WISH.with_(host=name), is_empty=empty)
                for name, empty in kept
            )
        )

    async def drain_node(self, request: web.Request) -> Any:
        self.asked.append(("drain", json.loads(await request.text())))
        if self.refusal:
            raise self.refusal
        return self.reports[0]

    async def drain_report(self, _: web.Request) -> Any:
        return self.reports.pop(0) if len(self.reports) > 1 else self.reports[0]

    async def resume_node(self, request: web.Request) -> Any:
        self.asked.append(("resume", request.match_info["name"]))
        return wire.Acknowledged(sentence=self.resumed)

    async def remove_node(self, request: web.Request) -> Any:
        self.asked.append(("remove", (request.match_info["name"], request.query.get("force"))))
        return wire.Acknowledged(sentence="removed h3")

    async def move_endophyte(self, request: web.Request) -> Any:
        body = json.loads(await request.text())
        self.asked.append(("move", (request.match_info["name"], body["to"])))
        return self.find(request)


@pytest.fixture
def maintained(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(draining, "_POLL_S", 0.01)
    return cluster


@pytest.fixture(autouse=True)
def with_maintenance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli_support.Cluster", Maintained)


def report(
    *items: DrainItem, wish: Maintenance | None = WISH, alive: bool = True, **more: Any
) -> DrainReport:
    return DrainReport(host="h1", wish=wish, alive=alive, items=items, **more)


def test_a_drain_waits_and_sums_up(maintained: Any, capsys: Capture) -> None:
    maintained.reports = [report(WEB, SOLO, DB), report(WEB, SOLO, DB), report(SOLO), report()]
    code, out, err = vdc(capsys, "node", "drain", "h1", "--reason", "new disks")
    assert (code, out, err) == (0, "node/h1 drained: 1 promoted, 1 migrated, 1 replicas moved\n", "")
    asked = maintained.asked[0][1]
    assert (asked["reason"], asked["leave_stopped"], asked["dry_run"]) == ("new disks", False, False)


def test_its_json_names_what_was_done(maintained: Any, capsys: Capture) -> None:
    stays = DrainItem(name="off", way=DrainWay.DISK, state=DrainState.STAYS)
    maintained.reports = [report(WEB, SOLO, DB, stays), report(stays)]
    code, out, _ = vdc(capsys, "node", "drain", "h1", "--leave-stopped", "-o", "json")
    value = json.loads(out)
    assert code == 0 and value["is_done"] is True
    assert (value["promoted"], value["migrated"], value["moved"]) == (["web"], ["solo"], ["db"])
    assert (value["left"], value["stays"]) == ([], ["off"])


def test_what_is_left_is_listed_and_the_exit_code_says_so(maintained: Any, capsys: Capture) -> None:
    maintained.reports = [report(WEB, STUCK), report(STUCK)]
    code, out, err = vdc(capsys, "node", "drain", "h1", "--timeout", "0.2")
    assert (code, out) == (1, "")
    assert "old" in err and "is paused" in err
    assert "(drain-timeout)" in err and "vdc node resume h1" in err


def test_a_dry_run_prints_the_plan_and_does_not_wait(maintained: Any, capsys: Capture) -> None:
    maintained.reports = [report(WEB, SOLO, wish=None, warnings=("without h1 etcd has no majority",))]
    code, out, err = vdc(capsys, "node", "drain", "h1", "--dry-run")
    assert code == 0 and maintained.asked[0][1]["dry_run"] is True
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", "web", "solo"]
    assert err == "warning: without h1 etcd has no majority\n"


def test_a_dead_host_is_not_waited_for(maintained: Any, capsys: Capture) -> None:
    maintained.reports = [report(STUCK, alive=False)]
    code, out, _ = vdc(capsys, "node", "drain", "h1")
    assert code == 0
    assert "does not answer; nothing is placed there" in out


def test_a_drain_that_somebody_resumed_ends(
    maintained: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "_LAG_S", 0.05)
    maintained.reports = [report(STUCK), report(STUCK, wish=None)]
    code, _, err = vdc(capsys, "node", "drain", "h1", "--timeout", "20")
    assert code == 1 and "somebody resumed it" in err


async def test_ctrl_c_ends_the_waiting_and_says_how_to_take_the_wish_back(capsys: Capture) -> None:
    class Api:
        asked = asyncio.Event()

        async def drain_node(self, *_: object) -> DrainReport:
            return report(WEB)

        async def drain_report(self, *_: object) -> DrainReport:
            self.asked.set()
            return await asyncio.Future()

    task = asyncio.create_task(_drain(Api(), "h1", wire.DrainRequest(), 60.0))  # type: ignore[arg-type]
    await asyncio.wait_for(Api.asked.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "h1 stays drained; vdc node resume h1" in capsys.readouterr().err


def test_a_refusal_is_one_line_and_a_hint(maintained: Any, capsys: Capture) -> None:
    maintained.refusal = RefusedError("stopped on h1: off", code="stopped-vms", hint="--leave-stopped")
    code, _, err = vdc(capsys, "node", "drain", "h1")
    assert (code, err) == (1, "error: stopped on h1: off (stopped-vms)\nhint: --leave-stopped\n")


def test_hosts_show_that_they_are_drained_since_when_and_by_whom(maintained: Any, capsys: Capture) -> None:
    lines = vdc(capsys, "get", "nodes")[1].splitlines()
    assert [line.split()[1] for line in lines] == ["STATUS", "Ready,drained", "Ready,draining"]
    described = vdc(capsys, "node", "describe", "h2")[1]
    assert "in progress, since 2030-01-01T00:00:00Z by me" in described


def test_resume_says_what_it_did(maintained: Any, capsys: Capture) -> None:
    assert vdc(capsys, "node", "resume", "h1")[:2] == (0, "node/h1: h1 is used again\n")
    assert maintained.asked == [("resume", "h1")]


def test_remove_by_force_needs_the_name_once_more(maintained: Any, capsys: Capture) -> None:
    code, _, err = vdc(capsys, "node", "remove", "h3", "--force", "--confirm", "h2")
    assert code == 2 and "--confirm h3" in err and maintained.asked == []
    assert vdc(capsys, "node", "remove", "h3", "--force", "--confirm", "h3")[0] == 0
    assert maintained.asked == [("remove", ("h3", "true"))]


def test_migrate_waits_until_it_runs_there(maintained: Any, capsys: Capture) -> None:
    maintained.add("web", **{**ALONE, "primary": CopyStatus(host="h2", pid=1, qemu="running")})
    code, out, _ = vdc(capsys, "migrate", "web", "--to", "h2", "--wait", "--timeout", "5")
    assert (code, out) == (0, "endophyte/web runs on h2 (epoch 3)\n")
    assert maintained.asked == [("move", ("web", "h2"))]
    assert vdc(capsys, "migrate", "web", "--cancel")[:2] == (0, "endophyte/web stays on h2\n")
    assert maintained.asked[-1] == ("move", ("web", None))


def test_migrate_ends_with_the_reason_where_the_move_was_given_up(maintained: Any, capsys: Capture) -> None:
    maintained.add("web", **ALONE, move_problem="it cannot move to h2: disk full")
    code, _, err = vdc(capsys, "migrate", "web", "--to", "h2", "--wait", "--timeout", "5")
    assert code == 1 and "disk full" in err


def test_migrate_needs_a_target_or_its_end(maintained: Any, capsys: Capture) -> None:
    for arguments in ((), ("--to", "h2", "--cancel")):
        code, _, err = vdc(capsys, "migrate", "web", *arguments)
        assert code == 2 and "--cancel" in err
