"""A planned promotion as two agents carry it out without losing a packet (`drivers.qemu.handover` says how).

The secondary's agent leads: the primary's one fences its guest on request and lifts the fence by itself when no
newer epoch comes, so nothing here has to be undone by somebody who may be dead. Until the commit everything can
be given up; after it only this copy may speak, and whatever is missing is done in the ordinary way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from hostagent.drivers.net import tap_name
from hostagent.drivers.qemu import handover, secondary
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.drivers.qemu.steps import Stopwatch
from hostagent.supervisor.copy import Copy
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import ConflictError, RefusedError, UnavailableError, VdcError
from vdc.model.pair import Pair
from vdc.model.step import Step

FENCE_S: Final = 1.0  # then the primary speaks again, if no newer epoch has come
LINGER_S: Final = 0.25  # the old primary passes on what still comes to it, after it saw the newer epoch
DRAIN_S: Final = 0.05  # from its last packet until its end
LISTEN_S: Final = 0.5  # from the commit until the new primary stops listening to the old one
ASK_S: Final = 1.5  # for the primary's fence and what comes with it, one attempt
ATTEMPTS: Final = 3
FOLLOW_S: Final = 0.1  # how long the other hosts are waited for: longer costs more than it saves
SETTLE_S: Final = 0.15  # from the first word until the guest stands still again, for its translated code

_IN_LOCKSTEP = (
    CopyStage.CHECKPOINTING,
    CopyStage.LOCKSTEP,
)  # the first, until the record's news has been noted
AskPrimary = Callable[[Pair], Awaitable[None]]
NetworkFollows = Callable[
    [int], Coroutine[Any, Any, None]
]  # returns when every host sends to the primary of that epoch


def taps(copy: Copy) -> list[str]:
    """The taps of this copy."""
    return [tap_name(copy.state.uid, index) for index in range(len(copy.state.macs))]


# ---- the primary's agent


async def fence(copy: Copy, epoch: int) -> None:
    """Let nothing of this guest out any more, for `FENCE_S` at least or until the newer epoch comes."""
    plan = copy.state.plan
    if plan is None or copy.state.stage not in _IN_LOCKSTEP:
        raise ConflictError(f"{copy.name} is not in lockstep on {copy.host.name}", code="not-in-lockstep")
    qmp = copy.session()  # before the timer of an earlier fence is given up
    copy.forget_fence()
    await handover.fence(qmp, plan.plan())
    copy.fenced_epoch = epoch
    copy.fence_timer = asyncio.create_task(_lift_later(copy, epoch), name=f"{copy.name} fence")
    await copy.reach(Step.HANDOVER_FENCED)


async def _lift_later(copy: Copy, epoch: int) -> None:
    await asyncio.sleep(FENCE_S)
    pair, plan = copy.host.mirror.pair(copy.name), copy.state.plan
    is_ours = pair is not None and pair.epoch == epoch == copy.state.epoch
    if not is_ours or plan is None or copy.state.stage not in _IN_LOCKSTEP:
        return
    copy.fenced_epoch = 0
    copy.host.log.warning("the planned promotion did not come; speaking again", endophyte=copy.name)
    with suppress(QmpError):  # a QEMU that does not answer shows as a checkpoint that does not come
        await handover.unfence(copy.session(), plan.plan())


async def linger(copy: Copy) -> None:
    """Before the old primary is ended: pass on to the new one what still comes here. Its guest is mute."""
    pair = copy.host.mirror.pair(copy.name)
    fenced, copy.fenced_epoch = copy.fenced_epoch, 0
    copy.forget_fence()
    if not fenced or not copy.is_alive or pair is None or pair.epoch != fenced + 1:
        return
    await asyncio.sleep(LINGER_S)
    await copy.host.overlay.go_silent(*taps(copy))
    await asyncio.sleep(DRAIN_S)


async def after_restart(copy: Copy) -> None:
    """Undo what an earlier agent left half done; the record then decides what comes next. Lockstep goes on."""
    plan = copy.state.plan
    if plan is None or copy.state.stage not in _IN_LOCKSTEP:
        return
    qmp = copy.session()
    if copy.state.role is CopyRole.SECONDARY:
        await copy.host.overlay.go_silent(*taps(copy))
        await handover.drop_hold(qmp, plan.plan())
    elif not _is_lost(copy) and await handover.is_fenced(qmp, plan.plan()):
        await handover.unfence(qmp, plan.plan())


def _is_lost(copy: Copy) -> bool:
    """Whether a newer epoch is in force already: then the fence keeps this guest from speaking until its end."""
    pair = copy.host.mirror.pair(copy.name)
    return pair is not None and pair.epoch > copy.state.epoch


# ---- the secondary's agent


class Handover:
    """One planned promotion, seen from the secondary. Used as a context: what was not committed is given up."""

    def __init__(self, copy: Copy, pair: Pair, follows: NetworkFollows) -> None:
        if copy.state.plan is None:
            raise RefusedError(f"{copy.name}: nothing is known of the lockstep", code="no-plan")
        self._copy, self._pair = copy, pair
        self._plan = copy.state.plan.plan()
        self._follows = follows
        self._hold: handover.Hold | None = None
        self._network: asyncio.Task[None] | None = None
        self._set_at_s = 0.0
        self.is_committed = False

    async def __aenter__(self) -> Self:
        await self._copy.reconnect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._network is not None:
            self._network.cancel()
        if self._hold is not None:
            await self._hold.close()
        if not self.is_committed:
            await asyncio.shield(self._give_up())

    async def _give_up(self) -> None:
        """The primary lifts its fence by itself."""
        with suppress(VdcError):
            await self._copy.host.overlay.go_silent(*taps(self._copy))
        with suppress(QmpError):
            await handover.drop_hold(self._copy.session(), self._plan)

    async def prepare(self, ask_primary: AskPrimary) -> None:
        """Both copies at one checkpoint, neither speaking. Raises what the primary says, or UnavailableError.

        Under a load that forces checkpoints all the time there may be none that is meant alone; then the
        promotion goes on without the promise that nothing is lost.
        """
        copy = self._copy
        await copy.host.overlay.go_listen(*taps(copy))
        await copy.reach(Step.HANDOVER_LISTENING)
        self._hold = handover.Hold(copy.session(), self._plan, now=copy.host.clock.boottime_s)
        self._network = asyncio.create_task(
            self._follows(self._pair.epoch + 1), name=f"{copy.name} network follows"
        )
        for _ in range(ATTEMPTS):
            try:
                async with asyncio.timeout(ASK_S):
                    await ask_primary(self._pair)
            except TimeoutError as late:
                raise UnavailableError(
                    f"{self._pair.primary} did not stop speaking within {ASK_S:g} s; epoch {self._pair.epoch} stays",
                    code="primary-late",
                ) from late
            if await self._hold.is_set():
                break
        self._set_at_s = self._hold.held_at_s  # before the fence, which outlasts what relies on it by that
        copy.host.overlay.nudge(*taps(copy))
        await copy.reach(Step.HANDOVER_HELD)

    async def speak(self, going_live: Awaitable[None]) -> dict[str, float]:
        """The epoch is won: let the guest here speak; returns milliseconds per step."""
        self.is_committed = True
        qmp, watch = self._copy.session(), Stopwatch()
        await secondary.cut(qmp)
        await self._copy.reach(Step.HANDOVER_CUT)
        if not self._is_whole():
            await handover.drop_hold(qmp, self._plan)
            return {**await secondary.promote(qmp, self._plan), "held": 0.0}
        await handover.shut_comparison(qmp, self._plan)
        watch.lap("cut")
        await going_live
        await self._network_follows()
        watch.lap("network")
        if not self._is_whole():  # it took too long: the buffer may be let go of, and the guest with it
            self._copy.host.log.warning(
                "the packets were let go before their time", endophyte=self._copy.name
            )
        await handover.open_output(qmp, self._plan)
        watch.lap("open_output")
        await self._copy.reach(Step.HANDOVER_SPOKEN)
        return {**watch.laps_ms, "total": watch.total_ms}

    async def leave(self) -> None:
        """The guest speaks: now leave lockstep, with a pause between what makes the guest stand still."""
        copy, qmp = self._copy, self._copy.session()
        began_s = copy.host.clock.boottime_s()
        await secondary.promote(qmp, self._plan, keep_listening=True)
        copy.host.overlay.nudge(*taps(copy))
        await asyncio.sleep(SETTLE_S)
        if copy.host.record.accelerator.name == "tcg":
            await secondary.refresh_code(qmp)
            copy.host.overlay.nudge(*taps(copy))
        await asyncio.sleep(max(0.0, began_s + LISTEN_S - copy.host.clock.boottime_s()))
        await handover.stop_listening(qmp, self._plan)

    def _is_whole(self) -> bool:
        age_s = self._copy.host.clock.boottime_s() - self._set_at_s
        return self._hold is not None and self._hold.is_clean and age_s < 0.8 * handover.HOLD_S

    async def _network_follows(self) -> None:
        """Hosts that still believe in the old primary drop what this one sends."""
        if self._network is not None:
            with suppress(TimeoutError, VdcError):
                await asyncio.wait_for(asyncio.shield(self._network), FOLLOW_S)
