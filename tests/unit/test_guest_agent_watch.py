"""When the primary's host asks a disk image's agent, and what it makes of the answers."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hostagent.drivers.guest.errors import GuestGoneError, GuestRefusedError
from hostagent.supervisor.guestagent import ANSWERED_EVERY_S, BOOT_S, FIRST_RETRY_S, AgentWatch
from vdc.model.endophyte import CopyRole, CopyStage, MachineFacts
from vdc.model.guest import GuestInterface

ETH0 = GuestInterface(name="eth0", addresses=(IPv4Address("10.77.0.10"),))
FACTS = MachineFacts(
    accelerator="tcg", cpu_model="qemu64", qemu_version="11", disk_sizes_bytes=(), has_agent_port=True
)


class Line:
    """Answers with what it was given last."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: Any = (ETH0,)

    async def interfaces(self) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class World:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.woken = 0
        self.copy: Any = SimpleNamespace(
            name="web", guest=Path("/nowhere"), is_alive=True, pid=7, wake=self.wake,
            state=SimpleNamespace(role=CopyRole.PRIMARY, stage=CopyStage.RUNNING, machine=FACTS),
            host=SimpleNamespace(clock=SimpleNamespace(boottime_s=lambda: self.now_s)),
        )  # fmt: skip
        self.watch = AgentWatch(self.copy)
        self.line: Any = Line()
        self.watch.line = self.line

    def wake(self) -> None:
        self.woken += 1

    async def look(self, after_s: float = 0.0) -> None:
        self.now_s += after_s
        self.watch.look()
        if self.watch.task is not None:
            await asyncio.wait({self.watch.task})


async def test_an_answer_is_told_once_and_asked_for_again_later() -> None:
    world = World()
    await world.look()
    assert world.watch.status is not None and world.watch.status.interfaces == (ETH0,)
    await world.look(ANSWERED_EVERY_S - 1)
    assert (world.line.asked, world.woken) == (1, 1)
    await world.look(2)
    assert (world.line.asked, world.woken) == (2, 1)


async def test_silence_is_asked_into_more_seldom_once_the_guest_has_had_time_to_boot() -> None:
    world = World()
    world.line.answer = GuestGoneError("nobody")
    await world.look()
    assert world.watch.status is not None and not world.watch.status.is_answering
    while world.now_s < 100 + BOOT_S:
        await world.look(FIRST_RETRY_S)
    assert world.line.asked > BOOT_S / FIRST_RETRY_S - 2
    eager = world.line.asked
    for _ in range(200):
        await world.look(FIRST_RETRY_S)
    assert 8 < world.line.asked - eager < 14
    world.line.answer = (ETH0,)
    await world.look(60)
    assert world.watch.status.is_answering


async def test_an_agent_that_may_not_say_is_there() -> None:
    world = World()
    world.line.answer = GuestRefusedError("disabled")
    await world.look()
    assert world.watch.status is not None
    assert (world.watch.status.is_answering, world.watch.status.interfaces) == (True, ())


@pytest.mark.parametrize(
    "change",
    [
        {"role": CopyRole.SECONDARY},
        {"machine": None},
        {"machine": FACTS.with_(has_agent_port=False)},
        {"stage": CopyStage.PAUSED},
    ],
)
async def test_a_copy_that_does_not_speak_is_not_asked(change: dict[str, object]) -> None:
    world = World()
    vars(world.copy.state).update(change)
    await world.look()
    assert (world.line.asked, world.watch.status) == (0, None)


async def test_what_an_earlier_guest_said_is_forgotten_with_it() -> None:
    world = World()
    await world.look()
    world.copy.is_alive = False
    await world.look()
    assert world.watch.status is None


async def test_an_answer_that_comes_after_its_guest_has_ended_counts_for_nothing() -> None:
    world = World()
    world.watch.look()
    world.copy.pid = 8
    assert world.watch.task is not None
    await world.watch.task
    assert world.watch.status is None
