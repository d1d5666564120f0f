"""get, describe and their like: what is printed of what there is, as a table and for scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import yaml
from cli_support import Capture, Cluster, cluster, manifest_of, vdc, view_of

from vdc.api import models as wire
from vdc.cli.commands.get import follow
from vdc.cli.kinds import ENDOPHYTE
from vdc.model.endophyte import CheckpointFigures, Protection

__all__ = ["cluster"]


@pytest.mark.parametrize("kind", ["endophyte", "endophytes", "endo", "ep", "Endophyte"])
def test_one_object_is_printed_alone_and_many_as_items(cluster: Cluster, capsys: Capture, kind: str) -> None:
    cluster.add("a")
    one = json.loads(vdc(capsys, "get", kind, "a", "-o", "json")[1])
    assert one["kind"] == "Endophyte" and one["status"]["primary"] == {
        **one["status"]["primary"],
        "host": "h1",
    }
    many = json.loads(vdc(capsys, "get", kind, "-o", "json")[1])
    assert many == {"items": [one]}
    assert yaml.safe_load(vdc(capsys, "get", kind, "a", "-o", "yaml")[1]) == one
    assert vdc(capsys, "get", kind, "-o", "name")[1] == "endophyte/a\n"


def test_the_json_that_scripts_rely_on(cluster: Cluster, capsys: Capture) -> None:
    cluster.add("a", secondary=None)
    value = json.loads(vdc(capsys, "get", "endophyte", "a", "-o", "json")[1])
    assert value["apiVersion"] == "mycelium.network/v1"
    assert {"name", "uid"} <= value["metadata"].keys()
    assert value["status"].keys() == {
        "phase",
        "protection",
        "epoch",
        "primary",
        "secondary",
        "spares",
        "addresses",
        "mac",
        "checkpoints",
        "sentence",
        "moving_to",
        "move_problem",
        "nics",
        "firmware",
        "agent",
        "program",
        "unprotectedSince",
    }
    assert value["status"]["secondary"] is None
    assert value["status"]["checkpoints"] == {
        "count": 120,
        "pause_ms_p50": 4.1,
        "pause_ms_p99": 11.0,
        "last": "2030-01-01T00:00:00Z",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("get", "nodes"), ("h1", "Ready", "leader", "1GiB/8GiB")),
        (("get", "node", "h1"), ("h1",)),
        (("node", "ls"), ("h1",)),
        (("node", "describe", "h1"), ("10.1.0.1", "Schedulable")),
        (("get", "networks"), ("default", "10.77.0.0/24")),
        (("get", "net", "default", "-o", "json"), ('"vni": 100',)),
        (("get", "events"), ("12:00:00.123", "promoted", "h2 took over")),
        (("events", "-o", "wide"), ("detect_ms=12.5",)),
        (("get", "ev", "-o", "json"), ('"items"',)),
        (("describe", "ep", "a"), ("in lockstep", "UEFI variables", "promoted", "h1 (pid 4242, running)")),
        (("describe", "ep", "a", "-o", "json"), ('"limits"',)),
        (("describe", "template", "server"), ("mycelium/mini",)),
        (("logs", "a"), ("login: ",)),
        (("version",), ("9.9",)),
    ],
)
def test_what_is_printed(
    cluster: Cluster, capsys: Capture, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    cluster.add("a")
    code, out, err = vdc(capsys, *arguments)
    assert (code, err) == (0, "")
    assert all(word in out for word in words), out


@pytest.mark.parametrize("kind", ["endophyte", "node", "network", "image", "template"])
def test_what_does_not_exist_is_said(cluster: Cluster, capsys: Capture, kind: str) -> None:
    code, out, err = vdc(capsys, "get", kind, "nope")
    assert (code, out) == (1, "") and f"({kind}-not-found)" in err and "hint:" in err


def test_an_empty_table_is_a_sentence_on_stderr(cluster: Cluster, capsys: Capture) -> None:
    assert vdc(capsys, "get", "endophytes") == (0, "", "there are no endophytes\n")
    assert json.loads(vdc(capsys, "get", "endophytes", "-o", "json")[1]) == {"items": []}


async def test_a_watch_prints_a_row_only_where_it_shows_something_new(capsys: Capture) -> None:
    manifest = manifest_of("a")
    states = [
        view_of(manifest),
        view_of(manifest, checkpoints=CheckpointFigures(count=121)),
        view_of(manifest, epoch=4, secondary=None, protection=Protection.DEGRADED),
    ]

    class Api:
        async def list_endophytes(self) -> wire.EndophyteList:
            return wire.EndophyteList(items=(states[0],))

        async def watch_endophytes(self, _name: str | None) -> AsyncIterator[wire.EndophyteView]:
            for state in states:
                yield state
            raise asyncio.CancelledError

    for output, expected in (("table", 2), ("json", 3)):
        with pytest.raises(asyncio.CancelledError):
            await follow(Api(), ENDOPHYTE, None, output)  # type: ignore[arg-type]
        lines = capsys.readouterr().out.splitlines()
        rows = lines[1:] if output == "table" else lines
        assert len(rows) == expected
        assert "degraded" in rows[-1]
