"""Commands in a disk image: the real API, client and command line, and a guest agent that is played."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from protection_world import endophyte, observed
from qga_support import played, said
from server_support import served

from hostagent.drivers.guest.qga import QemuGuestAgent
from vdc.api.client import ApiClient
from vdc.api.execution import WINDOW, ExecOptions
from vdc.cli.execution import EXIT_LOST, run_command
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import ConflictError
from vdc.store import keys
from vdc.store.protocol import Put

SOON_S = 5.0
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")


class World:
    """A VM that runs on the host whose API is asked; its agent says what `ends` has, once it is asked."""

    def __init__(self, client: ApiClient, socket: Path, state: SimpleNamespace) -> None:
        self.client, self.socket, self.state = client, socket, state
        self.ends: dict[str, Any] = {"exited": True, "exitcode": 0}

    def answer(self, request: dict[str, Any]) -> bytes:
        return said({"guest-exec": {"pid": 7}, "guest-exec-status": self.ends}.get(request["execute"], {}))

    async def run(
        self, *command: str, options: ExecOptions | None = None, **more: Any
    ) -> tuple[int, list[Any]]:
        more = {"user": "", "has_input": False} | more
        async with played(self.socket, self.answer) as (_, asked), asyncio.timeout(SOON_S):
            code = await run_command(self.client, "web", command, options or ExecOptions(), **more)
        return code, [one for one in asked if one["execute"] == "guest-exec"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with served(tmp_path) as api, ApiClient([f"unix://{api.socket}"]) as client:
        host, socket = api.context.host, tmp_path / "qga.sock"
        state = SimpleNamespace(role=CopyRole.PRIMARY, stage=CopyStage.LOCKSTEP)
        agent = SimpleNamespace(has_port=True, line=QemuGuestAgent(socket, answer_s=0.5))
        copy = SimpleNamespace(name="web", host=host, agent=agent, is_alive=True, state=state)
        api.context.supervisors.find = lambda name: SimpleNamespace(copy=copy)  # type: ignore[method-assign,assignment,return-value]
        records = [
            Put(keys.endophyte("web"), endophyte().to_json()),
            Put(keys.observed("web", "h1"), observed("h1", CopyRole.PRIMARY, CopyStage.RUNNING).to_json()),
        ]
        await host.store.commit([], records)
        async with asyncio.timeout(SOON_S):
            while host.mirror.observed("web", "h1") is None:
                await asyncio.sleep(0.01)
        yield World(client, socket, state)


async def test_output_errors_and_exit_code_arrive(
    world: World, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    out, err = b"o" * (2 * WINDOW + 1), b"err\n"
    encoded = {"out-data": base64.b64encode(out).decode(), "err-data": base64.b64encode(err).decode()}
    world.ends = {"exited": True, "exitcode": 42, "out-truncated": True, **encoded}
    code, asked = await world.run("ls", "-l")
    shown = capfdbinary.readouterr()
    assert (code, shown.out[-len(out) :]) == (42, out)
    assert shown.err == err + b"vdc: the guest agent has kept only the beginning of the output\n"
    assert asked[0]["arguments"] == {"path": "ls", "arg": ["-l"], "capture-output": True}


async def test_all_of_the_input_goes_first(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 3000
    (tmp_path / "input").write_bytes(data)
    with (tmp_path / "input").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        _, asked = await world.run("cat", has_input=True, options=ExecOptions(env=("A=1",)))
    assert base64.b64decode(asked[0]["arguments"]["input-data"]) == data
    assert asked[0]["arguments"]["env"][1:] == ["A=1"]
    assert asked[0]["arguments"]["env"][0].startswith("PATH=")


async def test_too_much_input_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "input").write_bytes(bytes(3 << 20))
    with (tmp_path / "input").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        code, asked = await world.run("cat", has_input=True)
    assert (code, asked) == (EXIT_LOST, [])
    assert "at most 1 MiB" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "more", "what"),
    [
        (ExecOptions(tty=True), {}, "-t"),
        (ExecOptions(working_dir="/srv"), {}, "-w"),
        (ExecOptions(), {"user": "anna"}, "-u"),
    ],
)
async def test_what_the_agent_cannot_give_is_refused(
    world: World, capfd: pytest.CaptureFixture[str], options: ExecOptions, more: dict[str, str], what: str
) -> None:
    code, asked = await world.run("id", options=options, **more)
    assert (code, asked) == (EXIT_LOST, [])
    assert what in capfd.readouterr().err


async def test_where_no_agent_answers_that_is_said_at_once(world: World) -> None:
    with pytest.raises(ConflictError, match=r"no guest agent answers|port of the guest agent") as caught:
        await run_command(world.client, "web", ["id"], ExecOptions(), user="", has_input=False)
    assert caught.value.code == "guest-agent-silent"


async def test_a_paused_guest_is_not_asked(world: World) -> None:
    world.state.stage = CopyStage.PAUSED
    with pytest.raises(ConflictError) as caught:
        await run_command(world.client, "web", ["id"], ExecOptions(), user="", has_input=False)
    assert caught.value.code == "paused"
