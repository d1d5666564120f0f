"""The primary's log on the secondary's host: fetched piece by piece, and gone on with after a promotion."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from protection_world import pair

from hostagent.server.endophytes import _read_log
from hostagent.supervisor import outputs
from hostagent.supervisor.outputs import FETCHED, OutputKeeper
from vdc.api.models import LogText, OutputRequest
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import UnavailableError


def line(second: int, text: str) -> str:
    return f"2026-11-23T14:00:{second:02}.000000000Z stdout F {text}\n"


class Primary:
    """A host with a log."""

    def __init__(self) -> None:
        self.log, self.asked, self.is_there = "", 0, True

    async def peer_output(self, name: str, request: OutputRequest) -> LogText:
        self.asked += 1
        offset = request.offset
        assert (name, request.from_host, request.epoch) == ("web", "h2", 2)
        if not self.is_there:
            raise UnavailableError("gone")
        text = self.log[offset or 0 :][:100]
        return LogText(name=name, host="h1", text=text, form="cri", end_offset=(offset or 0) + len(text))


class World:
    def __init__(self, folder: Path) -> None:
        (folder / "guest").mkdir(parents=True)
        self.primary, self.now = Primary(), 100.0
        self.state = SimpleNamespace(role=CopyRole.SECONDARY, stage=CopyStage.LOCKSTEP)
        mirror = SimpleNamespace(pair=lambda name: pair())
        clock = SimpleNamespace(boottime_s=lambda: self.now)
        log = SimpleNamespace(debug=lambda *_, **__: None)
        host = SimpleNamespace(name="h2", peer=lambda name: self.primary, mirror=mirror, clock=clock, log=log)
        copy: Any = SimpleNamespace(
            name="web", folder=folder, guest=folder / "guest", state=self.state, host=host
        )
        self.folder, self.keeper = folder, OutputKeeper(copy)
        self.own = folder / "guest/output.log"

    async def look(self) -> None:
        self.now += outputs.FETCH_EVERY_S
        await self.keeper.look()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "vm")


async def test_what_was_written_before_lockstep_is_there_after_a_promotion(world: World) -> None:
    world.primary.log = line(1, "one") + line(2, "two")
    await world.look()
    world.primary.log += line(3, "three") + line(4, "four") + "2026-11-23T14:00:05.0"
    await world.look()
    world.own.write_text(line(3, "three") + line(6, "six"))  # without what a checkpoint took away
    world.state.role = CopyRole.PRIMARY
    await world.look()
    text, end = _read_log(world.folder, "output.log", 100, None)
    assert text == "".join(line(n, word) for n, word in enumerate(("one", "two", "three", "four"), 1)) + line(
        6, "six"
    )
    assert end == 0 and not (world.folder / FETCHED).exists()
    with world.own.open("a") as file:
        file.write(line(7, "seven"))
    assert _read_log(world.folder, "output.log", 2, None)[0] == line(6, "six") + line(7, "seven")


async def test_a_long_log_comes_in_pieces_and_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "KEPT_BYTES", 200)
    await world.look()
    world.primary.log = "".join(line(n, "x") for n in range(20))
    await world.look()
    kept = (world.folder / FETCHED).read_text()
    assert len(kept) <= 400 and kept.endswith(line(19, "x")) and kept.startswith("2026")


async def test_an_agent_that_comes_back_begins_anew(world: World) -> None:
    world.primary.log = line(1, "one")
    await world.look()
    world.keeper = OutputKeeper(world.keeper._copy)
    await world.look()
    assert (world.folder / FETCHED).read_text() == line(1, "one")


async def test_nothing_is_asked_too_often_nor_out_of_lockstep_and_silence_is_no_harm(world: World) -> None:
    await world.look()
    await world.keeper.look()
    assert world.primary.asked == 1
    world.primary.is_there = False
    await world.look()
    world.state.stage = CopyStage.READY
    await world.look()
    assert world.primary.asked == 2


async def test_a_copy_that_was_never_a_secondary_keeps_its_log(world: World) -> None:
    world.state.role = CopyRole.PRIMARY
    world.own.write_text(line(1, "one"))
    await world.look()
    assert _read_log(world.folder, "output.log", 100, None)[0] == line(1, "one")
