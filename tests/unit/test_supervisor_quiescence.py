"""Freezing a guest for a snapshot: in time or not at all, thawed in every case; nothing of the pair waits for it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from protection_world import endophyte

from hostagent.drivers.guest import GuestGoneError
from hostagent.supervisor import quiescence, snapshotting
from hostagent.supervisor.quiescence import frozen
from hostagent.supervisor.snapshotting import Snapshots
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import ConflictError

VM = endophyte()


class Agent:
    """A guest's agent; it freezes when it is let."""

    def __init__(self) -> None:
        self.may_freeze, self.asked, self.is_frozen = asyncio.Event(), asyncio.Event(), False
        self.thaws, self.deaf = 0, 0
        self.is_there = True

    async def ping(self) -> None:
        if not self.is_there:
            raise GuestGoneError("no guest agent answers in the guest")

    async def freeze(self) -> int:
        self.asked.set()
        await self.may_freeze.wait()
        self.is_frozen = True
        return 1

    async def thaw(self) -> int:
        self.thaws += 1
        if self.thaws <= self.deaf:
            raise GuestGoneError("no guest agent answers in the guest")
        self.is_frozen = False
        self.may_freeze.set()
        return 1


class World:
    def __init__(self) -> None:
        self.agent, self.deciding = Agent(), asyncio.Lock()
        state = SimpleNamespace(role=CopyRole.PRIMARY, stage=CopyStage.LOCKSTEP, uid="uid")
        disks = SimpleNamespace(virtual_sizes=self.no_disks, load=self.no_disks)
        self.copy: Any = SimpleNamespace(
            name="web", is_alive=True, state=state, agent=SimpleNamespace(line=self.agent), disks=disks,
            host=SimpleNamespace(mirror=SimpleNamespace(endophyte=lambda name: VM)), session=lambda: None,
        )  # fmt: skip
        self.snapshots = Snapshots(self.copy, lambda: None, self.deciding)
        self.begun: list[tuple[bool, bool]] = []  # was it frozen, did the supervisor wait

    async def no_disks(self) -> tuple[()]:
        return ()

    async def begin(self, *_: object) -> None:
        self.begun.append((self.agent.is_frozen, self.deciding.locked()))
        raise ConflictError("that is all", code="enough")

    async def copy_live(self) -> None:
        await self.snapshots._copy_live(VM, quiesce=True, marks=snapshotting.NO_MARKS)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    async def nothing(*_: object) -> None:
        """No QEMU, no disks."""

    monkeypatch.setattr(snapshotting.snapshots, "begin", made.begin)
    monkeypatch.setattr(snapshotting.snapshots, "end", nothing)
    monkeypatch.setattr(Snapshots, "_plan", lambda self, marks: None)
    monkeypatch.setattr(Snapshots, "_tool", None)
    monkeypatch.setattr(Snapshots, "_require_room", nothing)
    return made


async def test_the_supervisor_decides_while_a_guest_is_slow_to_freeze(world: World) -> None:
    copying = asyncio.create_task(world.copy_live())
    await world.agent.asked.wait()
    assert not world.deciding.locked()
    world.agent.may_freeze.set()
    with pytest.raises(ConflictError) as caught:
        await copying
    assert caught.value.code == "enough"
    assert world.begun == [(True, True)] and not world.agent.is_frozen


async def test_what_the_supervisor_does_meanwhile_ends_the_snapshot_and_thaws(world: World) -> None:
    world.agent.may_freeze.set()
    async with world.deciding:
        with pytest.raises(ConflictError) as caught:
            await world.copy_live()
    assert caught.value.code == "busy" and world.begun == [] and not world.agent.is_frozen


async def test_a_guest_that_does_not_freeze_in_time_is_told_and_thawed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiescence, "_ASK_S", 0.05)
    monkeypatch.setattr(quiescence, "_AGAIN_S", 0.001)
    world.agent.deaf = 10  # it does not answer while it freezes
    with pytest.raises(ConflictError) as caught:
        async with frozen(world.copy, VM):
            raise AssertionError
    assert caught.value.code == "quiesce-late"
    assert world.agent.may_freeze.is_set(), "it was thawed all the same"


async def test_where_nobody_can_freeze_nobody_is_asked_to_thaw(world: World) -> None:
    world.agent.is_there = False
    with pytest.raises(GuestGoneError):
        async with frozen(world.copy, VM):
            raise AssertionError
    assert world.agent.thaws == 0
