"""A planned promotion as the agents see it: who lifts the fence, what is given up, when the old copy may end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from qemu_support import PLAN, ModelQemu, in_lockstep

from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.supervisor import handover
from hostagent.supervisor.copy import Copy
from tests.unit.test_qemu_handover import ModelPrimary, a_primary, checkpoint
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import ConflictError, FencedError, UnavailableError
from vdc.model.pair import Pair, SyncState

EPOCH = PLAN.epoch


class ModelOverlay:
    def __init__(self) -> None:
        self.done: list[str] = []

    async def go_listen(self, *_: str) -> None:
        self.done.append("listen")

    async def go_silent(self, *_: str) -> None:
        self.done.append("silent")

    def nudge(self, *_: str) -> None:
        self.done.append("nudge")


class ModelPlan:
    def plan(self) -> LockstepPlan:
        return PLAN


def a_pair(epoch: int = EPOCH) -> Pair:
    return Pair(
        name="web", uid="u", epoch=epoch, primary="h1", secondary="h2", sync=SyncState.IN_SYNC, spares=(), slot=0,
        request_id="r", reason="", changed_at="now",
    )  # fmt: skip


async def _nothing(_step):
    """No journal is kept here."""


def a_copy(qemu: ModelQemu, role: CopyRole, stage: CopyStage = CopyStage.LOCKSTEP) -> Any:
    """What the functions need of a Copy and its host."""
    mirror = SimpleNamespace(shown=a_pair())
    mirror.pair = lambda _name: mirror.shown
    host = SimpleNamespace(
        name="h1", mirror=mirror, overlay=ModelOverlay(), log=structlog.get_logger(),
        clock=SimpleNamespace(boottime_s=lambda: asyncio.get_running_loop().time()),
        record=SimpleNamespace(accelerator=SimpleNamespace(name="tcg")),
    )  # fmt: skip
    state = SimpleNamespace(
        uid="u", macs=("52:54:00:00:00:01",), plan=ModelPlan(), stage=stage, role=role, epoch=EPOCH
    )
    copy = SimpleNamespace(
        name="web",
        host=host,
        state=state,
        fenced_epoch=0,
        fence_timer=None,
        is_alive=True,
        session=lambda: qemu,
        reach=_nothing,
    )
    copy.forget_fence = lambda: Copy.forget_fence(cast("Copy", copy))
    return copy


async def no_network(_epoch: int) -> None:
    """Every host follows at once."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FENCE_S", "LINGER_S", "DRAIN_S", "SETTLE_S", "LISTEN_S"):
        monkeypatch.setattr(handover, name, 0.005)


async def fenced() -> tuple[Any, ModelPrimary]:
    qemu = await a_primary()
    copy = a_copy(qemu, CopyRole.PRIMARY)
    await handover.fence(copy, EPOCH)
    assert qemu.outputs[-1] == "off"
    return copy, qemu


@pytest.mark.usefixtures("quick")
async def test_a_primary_that_was_asked_in_vain_speaks_again() -> None:
    copy, qemu = await fenced()
    await copy.fence_timer
    assert qemu.outputs[-1] == "on"
    assert copy.fenced_epoch == 0


@pytest.mark.usefixtures("quick")
async def test_a_primary_that_sees_the_newer_epoch_stays_mute_and_lingers() -> None:
    copy, qemu = await fenced()
    copy.host.mirror.shown = a_pair(EPOCH + 1)
    await copy.fence_timer
    assert qemu.outputs[-1] == "off"
    await handover.linger(copy)
    assert copy.host.overlay.done == ["silent"]
    await handover.linger(copy)
    assert copy.host.overlay.done == ["silent"], "once"


async def test_a_copy_that_was_not_fenced_ends_at_once() -> None:
    copy = a_copy(await a_primary(), CopyRole.PRIMARY)
    copy.host.mirror.shown = a_pair(EPOCH + 1)
    await handover.linger(copy)
    assert copy.host.overlay.done == []


async def test_only_a_primary_in_lockstep_is_fenced() -> None:
    copy = a_copy(await a_primary(), CopyRole.PRIMARY, CopyStage.RUNNING)
    with pytest.raises(ConflictError, match="not in lockstep"):
        await handover.fence(copy, EPOCH)


async def test_the_next_agent_of_the_primary_lifts_the_fence() -> None:
    copy, qemu = await fenced()
    copy.forget_fence()  # that agent is gone
    await handover.after_restart(copy)
    assert qemu.outputs[-1] == "on"


async def test_the_next_agent_of_the_secondary_takes_the_buffer_out_and_is_silent() -> None:
    qemu = await in_lockstep()
    await qemu.execute("object-add", {"id": PLAN.hold_filter(0), "qom-type": "filter-buffer"})
    copy = a_copy(qemu, CopyRole.SECONDARY)
    await handover.after_restart(copy)
    assert PLAN.hold_filter(0) not in qemu.objects
    assert copy.host.overlay.done == ["silent"]


def switch_of(copy: Any) -> handover.Handover:
    async def connected() -> None: ...

    copy.reconnect = connected
    return handover.Handover(copy, a_pair(), no_network)


@pytest.mark.usefixtures("quick")
async def test_the_guest_speaks_after_the_commit_and_not_before() -> None:
    qemu = await in_lockstep()
    copy = a_copy(qemu, CopyRole.SECONDARY)

    async def live() -> None:
        assert PLAN.hold_filter(0) in qemu.objects, "its tap is unlocked while the buffer still holds"

    async with switch_of(copy) as switch:
        await switch.prepare(lambda _pair: checkpoint(qemu))
        assert PLAN.hold_filter(0) in qemu.objects
        assert copy.host.overlay.done == ["listen", "nudge"]
        steps = await switch.speak(live())
        assert PLAN.hold_filter(0) not in qemu.objects
        assert set(steps) == {"cut", "network", "open_output", "total"}
    assert "silent" not in copy.host.overlay.done


@pytest.mark.usefixtures("quick")
async def test_a_checkpoint_after_the_cut_throws_the_buffer_away() -> None:
    qemu = await in_lockstep()
    copy = a_copy(qemu, CopyRole.SECONDARY)

    async def live() -> None: ...

    async with switch_of(copy) as switch:
        await switch.prepare(lambda _pair: checkpoint(qemu))
        qemu.emit("STOP")
        qemu.said.clear()
        waiting = live()
        steps = await switch.speak(waiting)
        await waiting
    assert steps["held"] == 0.0
    dropped = qemu.said.index('object-del {"id": "hold0-e7"}')
    assert dropped < qemu.said.index('object-del {"id": "fb0-e7"}'), "into the filter behind it"


@pytest.mark.parametrize(
    "error", [FencedError("newer"), UnavailableError("no answer"), asyncio.CancelledError()]
)
async def test_what_is_not_committed_is_given_up(error: BaseException) -> None:
    qemu = await in_lockstep()
    copy = a_copy(qemu, CopyRole.SECONDARY)

    async def refuses(_pair: Pair) -> None:
        await checkpoint(qemu)
        raise error

    with pytest.raises(type(error)):
        async with switch_of(copy) as switch:
            await switch.prepare(refuses)
    assert PLAN.hold_filter(0) not in qemu.objects
    assert {name for name in qemu.objects if not name.startswith("tls")} == {"fa0-e7", "fb0-e7", "rew0"}
    assert copy.host.overlay.done == ["listen", "silent"]
    assert not qemu.listeners


async def test_the_next_agent_leaves_a_guest_fenced_whose_epoch_is_lost() -> None:
    copy, qemu = await fenced()
    copy.forget_fence()
    copy.host.mirror.shown = a_pair(EPOCH + 1)
    await handover.after_restart(copy)
    assert qemu.outputs[-1] == "off"


@pytest.mark.usefixtures("quick")
async def test_what_was_held_back_grows_old_from_its_checkpoint_on_however_late_the_primary_answers() -> None:
    qemu = await in_lockstep()
    copy = a_copy(qemu, CopyRole.SECONDARY)
    now_s = [100.0]
    copy.host.clock.boottime_s = lambda: now_s[0]

    async def answers_late(_pair: Pair) -> None:
        await checkpoint(qemu)
        now_s[0] += 0.9

    async def live() -> None: ...

    async with switch_of(copy) as switch:
        await switch.prepare(answers_late)
        waiting = live()
        steps = await switch.speak(waiting)
        await waiting
    assert steps["held"] == 0.0
