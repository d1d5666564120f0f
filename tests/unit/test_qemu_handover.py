"""A planned switch against a model of QEMU: what is said, and what a checkpoint at the wrong moment leads to."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from qemu_support import PLAN, WIRES, ModelQemu, assert_golden, in_lockstep

from hostagent.drivers.qemu import handover, primary, secondary
from hostagent.drivers.qemu.qmp import QmpTimeoutError


class ModelPrimary(ModelQemu):
    """Does a checkpoint when it is told of an interval, as QEMU does; `more` of them follow at once."""

    def __init__(self, more: int = 0, *, is_deaf: bool = False) -> None:
        super().__init__()
        self.more, self.is_deaf = more, is_deaf
        self.outputs: list[str] = []

    def do_migrate_set_parameters(self, _given: Any) -> Any:
        if self.colo == "primary" and not self.is_deaf:
            self.checkpoint()

    def do_qom_set(self, given: Any) -> Any:
        if given["path"].split("/")[-1] not in self.objects:
            self.refuse("qom-set")
        self.outputs.append(given["value"])
        if given["value"] == "off" and self.more:
            self.more -= 1
            self.checkpoint()

    def do_qom_get(self, _given: Any) -> Any:
        return self.outputs[-1] if self.outputs else "on"

    def checkpoint(self) -> None:
        self.emit("STOP")
        self.emit("RESUME")


TLS = (PLAN.server_credentials, PLAN.client_credentials)  # stay until the promoted VM has settled


async def a_primary(**options: Any) -> ModelPrimary:
    qemu = ModelPrimary(**options)
    await primary.open_channels(qemu, PLAN, network=WIRES)
    await primary.enter(qemu, PLAN, progress=lambda _: None, deadline_s=5, network=WIRES)
    qemu.said.clear()
    return qemu


async def test_fencing_says_this() -> None:
    qemu = await a_primary()
    await handover.fence(qemu, PLAN)
    assert await handover.is_fenced(qemu, PLAN)
    qemu.said.append("(unfence)")
    await handover.unfence(qemu, PLAN)
    assert not await handover.is_fenced(qemu, PLAN)
    assert_golden("dialogue-fence", qemu.said)
    assert not qemu.listeners


async def test_what_a_late_checkpoint_released_is_let_out_before_the_fence_stays() -> None:
    qemu = await a_primary(more=2)
    await handover.fence(qemu, PLAN)
    assert qemu.outputs == ["on", "off", "on", "off", "on", "off"]


async def test_a_primary_without_a_checkpoint_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "FENCE_DEADLINE_S", 0.02)
    qemu = await a_primary(is_deaf=True)
    with pytest.raises(QmpTimeoutError):
        await handover.fence(qemu, PLAN)
    assert qemu.outputs == ["on", "on"]
    assert f'"x-checkpoint-delay": {PLAN.checkpoint_ms}' in qemu.said[-2]


async def test_unfencing_after_lockstep_is_harmless() -> None:
    qemu = await a_primary()
    await primary.leave(qemu, PLAN)
    await handover.unfence(qemu, PLAN)
    assert not await handover.is_fenced(qemu, PLAN)


async def checkpoint(qemu: ModelQemu, *, is_late: bool = False) -> None:
    """One on the secondary; `is_late`: the guest runs again before the buffer is there."""
    qemu.emit("STOP")
    qemu.status = "running" if is_late else "colo"
    for _ in range(10):
        await asyncio.sleep(0)
    qemu.status = "running"
    qemu.emit("RESUME")


async def test_holding_and_speaking_says_this() -> None:
    qemu = await in_lockstep()
    hold = handover.Hold(qemu, PLAN, now=time.monotonic)
    await asyncio.sleep(0)
    assert not hold.is_clean
    await checkpoint(qemu)
    assert await hold.is_set()
    await hold.close()
    await secondary.cut(qemu)
    await handover.shut_comparison(qemu, PLAN)
    await handover.open_output(qemu, PLAN)
    qemu.said.append("(leave)")
    await secondary.promote(qemu, PLAN, keep_listening=True)
    await handover.stop_listening(qemu, PLAN)
    assert_golden("dialogue-handover", qemu.said)
    assert set(qemu.objects) == {"rew0", *TLS}
    assert not qemu.listeners


async def test_a_guest_that_ran_before_the_buffer_was_there_is_not_held() -> None:
    qemu = await in_lockstep()
    hold = handover.Hold(qemu, PLAN, now=time.monotonic)
    await asyncio.sleep(0)
    await checkpoint(qemu, is_late=True)
    assert not await hold.is_set(deadline_s=0.005)
    await checkpoint(qemu)  # the next attempt
    assert await hold.is_set()
    await hold.close()


async def test_a_checkpoint_after_the_one_that_was_meant_spoils_the_buffer_until_it_is_a_new_one() -> None:
    qemu = await in_lockstep()
    hold = handover.Hold(qemu, PLAN, now=time.monotonic)
    await asyncio.sleep(0)
    await checkpoint(qemu)
    assert await hold.is_set()
    qemu.emit("STOP")
    assert not hold.is_clean
    await hold.close()
    await handover.drop_hold(qemu, PLAN)
    assert set(qemu.objects) == {"fa0-e7", "fb0-e7", "rew0", *TLS}


async def test_the_end_of_a_checkpoint_that_began_before_is_not_taken_for_one() -> None:
    qemu = await in_lockstep()
    hold = handover.Hold(qemu, PLAN, now=time.monotonic)
    await asyncio.sleep(0)
    qemu.emit("RESUME")
    assert not hold.is_clean
    await checkpoint(qemu)
    assert await hold.is_set()
    await hold.close()
