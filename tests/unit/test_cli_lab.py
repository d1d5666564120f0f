"""`vdc lab`: which function of the lab is called with what, and what is printed."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from vdc.cli.main import run
from vdc.lab import api
from vdc.lab.models import ClientStatus, HostState, HostStatus, LabState, LabStatus
from vdc.model.errors import RefusedError


def status(state: HostState = HostState.UP) -> LabStatus:
    hosts = tuple(
        HostStatus(
            name=f"h{n}",
            namespace=f"vdc-h{n}",
            state=state if n == 1 else HostState.UP,
            agent_pid=100 + n,
            etcd_pid=200 + n,
            management_address=f"10.70.0.{n}",
            replication_address=f"10.71.0.{n}",
            overlay_address=f"10.77.0.{n}",
            api_socket=f"/run/h{n}/api.sock",
            faults=("management: out dropped",) if n == 1 and state is not HostState.UP else (),
        )
        for n in (1, 2)
    )
    client = ClientStatus(namespace="vdc-client", address="10.77.0.250")
    return LabStatus(name="default", state=LabState.UP, hosts=hosts, client=client, context="lab")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    calls: list[tuple[str, Any]] = []

    async def up(
        name: str, hosts: int | None, progress: Any, memory: int | None, *, witness: bool
    ) -> LabStatus:
        calls.append(("up", (name, hosts, memory, witness)))
        progress("h1 is up")
        return status()

    async def down(name: str, progress: Any) -> None:
        calls.append(("down", name))

    async def get_status(name: str) -> LabStatus:
        return status(HostState.PARTITIONED)

    async def fault(name: str, kind: str, host: str | None, *, progress: Any, **details: Any) -> LabStatus:
        calls.append((kind, (name, host, details)))
        return status(HostState.OFF)

    monkeypatch.setattr(api, "up", up)
    monkeypatch.setattr(api, "down", down)
    monkeypatch.setattr(api, "status", get_status)
    monkeypatch.setattr(api, "fault", fault)
    monkeypatch.setattr(api, "list_labs", lambda: ("default", "two"))
    return calls


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["up"], ("up", ("default", None, None, False))),
        (["up", "--hosts", "2", "--witness"], ("up", ("default", 2, None, True))),
        (["up", "--hosts", "5", "--name", "x", "--memory", "2GiB"], ("up", ("x", 5, 2 * 1024**3, False))),
        (["down"], ("down", "default")),
        (["fault", "power-off", "h1"], ("power-off", ("default", "h1", {}))),
        (["fault", "pause", "h1", "-n", "x"], ("pause", ("x", "h1", {}))),
        (
            ["fault", "flap", "h1", "--times", "3"],
            ("flap", ("default", "h1", {"network": "replication", "direction": "both", "times": 3})),
        ),
        (
            ["fault", "partition", "h1", "--network", "replication", "--direction", "in"],
            ("partition", ("default", "h1", {"network": "replication", "direction": "in"})),
        ),
        (
            ["fault", "slow", "h1", "--rate", "1mbit"],
            ("slow", ("default", "h1", {"network": "all", "rate": "1mbit"})),
        ),
        (["fault", "heal"], ("heal", ("default", None, {}))),
    ],
)
def test_each_command_calls_the_lab(called: list[tuple[str, Any]], arguments: list[str], call: Any) -> None:
    assert run(["lab", *arguments]) == 0
    assert called == [call]


def test_down_all_takes_every_lab(called: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "down", "--all"]) == 0
    assert called == [("down", "default"), ("down", "two")]
    assert capsys.readouterr().out == "lab default is down\nlab two is down\n"


def test_status_as_a_table_and_as_json(called: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lab default is up, client namespace vdc-client"
    assert lines[2].split()[:5] == ["h1", "host", "partitioned", "101", "201"]
    assert "management: out dropped" in lines[2]
    assert run(["lab", "status", "-o", "json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [host["state"] for host in value["hosts"]] == ["partitioned", "up"]


def test_a_fault_says_what_became_of_the_host(called: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "fault", "power-off", "h1"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "h1 is off (management: out dropped)\n"
    assert captured.err == ""  # progress is for terminals


def test_exec_becomes_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(api, "exec_argv", lambda name, host, command: ["wrap", name, host, *command])
    monkeypatch.setattr(os, "execvp", lambda file, argv: seen.append((file, argv)))
    assert run(["lab", "exec", "client", "--", "ping", "-c", "1", "10.77.0.10"]) == 0
    assert seen == [("wrap", ["wrap", "default", "client", "ping", "-c", "1", "10.77.0.10"])]


def test_a_refusal_of_the_lab_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(*_: Any, **__: Any) -> LabStatus:
        raise RefusedError("the lab needs root", hint="sudo vdc lab up", code="needs-root")

    monkeypatch.setattr(api, "up", refuse)
    assert run(["lab", "up"]) == 1
    assert capsys.readouterr().err == "error: the lab needs root (needs-root)\nhint: sudo vdc lab up\n"
