"""Each action of the table as something done to a copy. What is done is elsewhere; this only knows where."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from hostagent.supervisor import primary, resync, secondary
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.handover import linger
from vdc.model.endophyte import Endophyte, RunState
from vdc.model.pair import Pair
from vdc.model.step import Step
from vdc.protection.decide import Decision
from vdc.protection.events import Event
from vdc.protection.table import Action
from vdc.store import keys
from vdc.store.protocol import Put, Unchanged


async def act(copy: Copy, decision: Decision) -> None:
    """Do what was decided. Raises VdcError; whoever calls tries again, or lets the table decide anew."""
    mirror = copy.host.mirror
    pair, endophyte = mirror.pair(copy.name), mirror.endophyte(copy.name)
    match decision.action:
        case Action.DISCARD | Action.SWEEP:
            await _discard(copy, decision)
        case Action.POWER_DOWN:
            await primary.power_down(copy)
        case Action.SWITCH_OFF:
            await primary.switch_off(copy)
        case Action.ISOLATE:
            await primary.isolate(copy)
        case Action.PAUSE:
            await primary.pause(copy)
        case Action.RESUME:
            await primary.resume(copy)
        case Action.RETRY_DISK:
            await copy.trouble.retry(copy)
        case Action.RECORD_POWER_OFF:
            await _record_power_off(copy)
        case _ if pair is not None and endophyte is not None:
            await _act_on_pair(copy, decision, endophyte, pair)


async def _act_on_pair(copy: Copy, decision: Decision, endophyte: Endophyte, pair: Pair) -> None:
    if decision.row.event in (Event.STALLED, Event.STALLED_LATER):
        await copy.probe()
    jobs: Mapping[Action, Callable[[], Awaitable[object]]] = {
        Action.START: lambda: primary.start(copy, endophyte, pair),
        Action.ADOPT_EPOCH: lambda: primary.adopt_epoch(copy, endophyte, pair),
        Action.ENTER: lambda: primary.enter(copy, pair),
        Action.MARK: lambda: primary.mark(copy, pair),
        Action.GO_ALONE: lambda: primary.alone(
            copy, endophyte, pair, decision.sentence, orderly=decision.row.event in resync.ORDERLY
        ),
        Action.LEAVE: lambda: primary.leave(copy, endophyte, pair),
        Action.PREPARE: lambda: secondary.prepare(copy, endophyte, pair),
        Action.PROMOTE: lambda: secondary.promote(copy, pair, decision.sentence),
        Action.TAKE_OVER: lambda: secondary.take_over(copy, pair),
        Action.INHERIT: lambda: secondary.inherit(copy, pair),
    }
    await jobs[decision.action]()


async def _discard(copy: Copy, decision: Decision) -> None:
    had_guest = copy.is_alive
    epoch = copy.state.epoch
    await linger(copy)
    if not await resync.keep_copy(copy):
        await copy.discard()
    if had_guest:
        await copy.host.tell(copy.name, "discarded", decision.sentence, epoch=epoch)


async def _record_power_off(copy: Copy) -> None:
    """The guest shut itself down: from now on that is what is wanted, and the next pass ends its QEMU."""
    found = copy.host.mirror.endophytes[copy.name]
    key, after = keys.endophyte(copy.name), found.value.with_(run=RunState.STOPPED)
    await copy.host.store.commit([Unchanged(key, found.revision)], [Put(key, after.to_json())])
    await copy.reach(Step.RECORD_OFF_DONE)
    await copy.host.tell(
        copy.name, "guest-powered-off", "the guest powered itself off", epoch=copy.state.epoch
    )
