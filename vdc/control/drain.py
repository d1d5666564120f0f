"""The leader's part in maintenance: empties drained hosts, and brings VMs to the hosts that they shall run on.

Level-triggered like the controller that calls it: what to do next follows from the records alone (`step_off`,
`step_for_move`), so that any other leader goes on where this one died. What is remembered here only keeps a pass
from repeating what the mirror does not show yet. Who may speak is never decided here: a promotion is asked of
the secondary's agent, which wins the epoch as always.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from vdc.control.clock import Clock
from vdc.model.endophyte import CopyStage, Endophyte
from vdc.model.errors import RefusedError, UnavailableError, VdcError
from vdc.model.event import Severity
from vdc.model.maintenance import Move
from vdc.model.pair import Pair, SyncState
from vdc.protection.arbitration import go_alone, with_spares
from vdc.protection.drain import Do, Situation, Step, step_for_move, step_off
from vdc.protection.invariants import check_transition
from vdc.protection.placement import Occupancy, choose_spares
from vdc.store import keys
from vdc.store.mirror import Mirror, Versioned
from vdc.store.protocol import Put, StateStore, Unchanged

AT_ONCE = 2  # VMs that are being copied because of drains, so that they do not take all of a network or host
PROMOTION_S = 30.0
RETRY_S, MAX_RETRY_S = 3.0, 60.0  # after a promotion that failed, doubling
_ABOUT_TO_BE_COPIED = (CopyStage.RUNNING, CopyStage.LEAVING, CopyStage.PROMOTING, CopyStage.LOCKSTEP)
_BEGINS = (Do.PROMOTE, Do.WITHDRAW, Do.COPY)

Promote = Callable[[str], Awaitable[None]]
Log = Callable[[str, str, str, int, Severity], Awaitable[None]]  # name, code, sentence, epoch, severity


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the controller lends: back-offs, its log, and where it hears that a secondary left without a fault."""

    avoid: Callable[[str], frozenset[str]]
    log: Log
    withdrawn: Callable[[Pair], None]


@dataclass(frozen=True, slots=True)
class Late:
    """A promotion that failed: asked for again at `again_at_s`."""

    again_at_s: float
    pause_s: float
    sentence: str


def situation(
    mirror: Mirror,
    endophyte: Endophyte,
    pair: Pair,
    avoid: frozenset[str] = frozenset(),
    *,
    drained_too: str | None = None,
) -> Situation:
    """One VM as the mirror shows it, or would if `drained_too` were drained."""
    name = endophyte.name
    hosts = {host: found.value for host, found in mirror.hosts.items()}
    if drained_too in hosts and hosts[drained_too].schedulable:
        hosts[drained_too] = hosts[drained_too].with_(schedulable=False)
    return Situation(
        endophyte=endophyte,
        pair=pair,
        copies={copy.host: copy for copy in mirror.copies(name) if copy.uid == endophyte.uid},
        hosts=hosts,
        alive=mirror.alive,
        drained=mirror.drained | ({drained_too} if drained_too else set()),
        occupancy=lambda: Occupancy.of(
            (found.value for found in mirror.pairs.values()),
            {other: found.value for other, found in mirror.endophytes.items()},
            without=name,
        ),
        avoid=avoid,
    )


class Mover:
    """One per leader's term."""

    def __init__(
        self, store: StateStore, mirror: Mirror, clock: Clock, around: Surroundings, promote: Promote | None
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._clock = clock
        self._around = around
        self._promote = promote
        self._promotions: dict[str, asyncio.Task[None]] = {}
        self._late: dict[str, Late] = {}
        self._seen: dict[str, tuple[int, int]] = {}  # revisions that a change was made of

    async def close(self) -> None:
        """End what is waited for; a promotion that has begun goes on at its agent."""
        tasks = list(self._promotions.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def advance(self, found: Versioned[Endophyte], pair: Versioned[Pair]) -> bool:
        """Do the next step of a VM that is to move. False: nothing of this kind to do now, go on as usual."""
        endophyte, name = found.value, found.value.name
        parts = (pair.value.primary, pair.value.secondary, *pair.value.spares)
        drained = [host for host in parts if host in self._mirror.drained]
        if endophyte.move is None and not drained:
            return False
        if name in self._promotions or self._is_shown_late(found, pair):
            return True
        now = situation(self._mirror, endophyte, pair.value, self._around.avoid(endophyte.uid))
        step = step_for_move(now)
        is_drain = endophyte.move is None or endophyte.move.drained is not None
        if step.do is Do.NOTHING and drained:
            step = self._step_off(now, [host for host in drained if host is not None])
        if step.do in _BEGINS and is_drain and self._is_crowded(now, step):
            return False
        return await self._do(step, found, pair)

    # ---- one step

    def _step_off(self, now: Situation, drained: list[str]) -> Step:
        """The first thing that can be done; a primary that cannot leave keeps no spare from being replaced."""
        steps = [step_off(now, host) for host in dict.fromkeys(drained)]
        actions = (step for step in steps if step.do in (*_BEGINS, Do.RESPARE))
        return next(actions, Step(Do.NOTHING))

    async def _do(self, step: Step, found: Versioned[Endophyte], pair: Versioned[Pair]) -> bool:
        match step.do:
            case Do.PROMOTE:
                return self._ask_to_promote(found, pair)
            case Do.WITHDRAW:
                return await self._withdraw(step, found, pair)
            case Do.RESPARE:
                return await self._respare(found, pair)
            case Do.REACHED | Do.GIVE_UP:
                return await self._end_move(step, found, pair)
            case Do.COPY if not found.value.wants_secondary and step.to is not None:
                return await self._begin_move(step.to, found, pair)
            case _:
                return False  # the controller makes the copy, or it is waited for

    def _ask_to_promote(self, found: Versioned[Endophyte], pair: Versioned[Pair]) -> bool:
        name = found.value.name
        late = self._late.get(name)
        if self._promote is None or (late is not None and self._clock.boottime_s() < late.again_at_s):
            return True
        self._note(found, pair)
        task = asyncio.create_task(self._promote_one(self._promote, name, pair.value), name=f"{name} move")
        self._promotions[name] = task
        return True

    async def _promote_one(self, promote: Promote, name: str, pair: Pair) -> None:
        try:
            async with asyncio.timeout(PROMOTION_S):
                await promote(name)
        except (VdcError, TimeoutError) as error:
            self._seen.pop(name, None)
            why = str(error) or f"no answer within {PROMOTION_S:.0f} s"
            await self._note_late(name, pair, why)
        else:
            self._late.pop(name, None)
        finally:
            self._promotions.pop(name, None)

    async def _note_late(self, name: str, pair: Pair, why: str) -> None:
        before = self._late.get(name)
        pause_s = RETRY_S if before is None else min(MAX_RETRY_S, before.pause_s * 2)
        sentence = f"{pair.secondary} could not take over from {pair.primary} yet: {why}"
        self._late[name] = Late(self._clock.boottime_s() + pause_s, pause_s, sentence)
        if before is None or before.sentence != sentence:
            with suppress(UnavailableError):  # the log has it; the store does not answer
                await self._log(name, "promotion-late", sentence, pair.epoch, Severity.WARNING)

    async def _withdraw(self, step: Step, found: Versioned[Endophyte], pair: Versioned[Pair]) -> bool:
        reason, request, at = step.sentence, uuid.uuid4().hex, self._clock.wall()
        after = go_alone(pair.value, reason=reason, request_id=request, now=at, keep_copy=True)
        if step.to is not None:
            after = after.with_(spares=(step.to, *(spare for spare in after.spares if spare != step.to)))
        if await self._swap(found, pair, after):
            self._around.withdrawn(after)
            await self._log(after.name, "replica-moves", reason, after.epoch)
        return True

    async def _respare(self, found: Versioned[Endophyte], pair: Versioned[Pair]) -> bool:
        now = situation(self._mirror, found.value, pair.value)
        able = [host for name, host in now.hosts.items() if name in now.alive]
        spares = choose_spares(found.value, pair.value, able, now.occupancy())
        after = with_spares(pair.value, spares, request_id=uuid.uuid4().hex, now=self._clock.wall())
        await self._swap(found, pair, after)
        return True

    async def _begin_move(self, to: str, found: Versioned[Endophyte], pair: Versioned[Pair]) -> bool:
        host = pair.value.primary
        move = Move(to=to, drained=host, asked_at=self._clock.wall(), by=f"drain of {host}")
        if await self._change(found, pair, found.value.with_(move=move)):
            sentence = f"moves from {host}, which is drained, to {to}"
            await self._log(found.value.name, "moving", sentence, pair.value.epoch)
        return True

    async def _end_move(self, step: Step, found: Versioned[Endophyte], pair: Versioned[Pair]) -> bool:
        name, epoch, move = found.value.name, pair.value.epoch, found.value.move
        is_reached = step.do is Do.REACHED or move is None
        problem = "" if is_reached or move is None else f"it cannot move to {move.to}: {step.sentence}"
        if await self._change(found, pair, found.value.with_(move=None, move_problem=problem)):
            if is_reached:
                await self._log(name, "moved", step.sentence, epoch)
            else:
                await self._log(name, "move-failed", problem, epoch, Severity.WARNING)
        return True

    async def _log(
        self, name: str, code: str, sentence: str, epoch: int, severity: Severity = Severity.NORMAL
    ) -> None:
        await self._around.log(name, code, sentence, epoch, severity)

    # ---- what keeps passes from treading on each other

    def _is_crowded(self, now: Situation, step: Step) -> bool:
        """Whether as many VMs as may be are without a full second copy already, and are being given one.

        A VM that wants protection and has none is not kept waiting by this: the controller helps it as always.
        """
        if step.do is Do.PROMOTE and self._promotions:
            return True  # one switch after the other
        if step.do is Do.PROMOTE and now.endophyte.move is not None:
            return False  # the copy is there: the switch is what makes room
        return (
            sum(self._is_unsettled(name) for name in self._mirror.pairs if name != now.pair.name) >= AT_ONCE
        )

    def _is_unsettled(self, name: str) -> bool:
        endophyte, pair = self._mirror.endophytes.get(name), self._mirror.pairs[name]
        if endophyte is None or endophyte.value.uid != pair.value.uid:
            return False
        if name in self._promotions or self._is_shown_late(endophyte, pair):
            return True
        if not endophyte.value.wants_secondary or pair.value.primary not in self._mirror.alive:
            return False
        if pair.value.secondary is not None:
            return pair.value.sync is SyncState.SYNCING
        uid = endophyte.value.uid
        now = situation(self._mirror, endophyte.value, pair.value, self._around.avoid(uid))
        primary = now.copies.get(pair.value.primary)
        if primary is None or primary.stage not in _ABOUT_TO_BE_COPIED:
            return False
        try:
            now.place_for_copy()
        except RefusedError:
            return False  # nobody can take its copy: waiting for it would be for ever
        return True

    def _note(self, found: Versioned[Endophyte], pair: Versioned[Pair]) -> None:
        self._seen[found.value.name] = (found.revision, pair.revision)

    def _is_shown_late(self, found: Versioned[Endophyte], pair: Versioned[Pair]) -> bool:
        """Whether the mirror still shows what has been changed already."""
        return self._seen.get(found.value.name) == (found.revision, pair.revision)

    async def _swap(self, found: Versioned[Endophyte], pair: Versioned[Pair], after: Pair) -> bool:
        check_transition(pair.value, after)
        key = keys.pair(after.name)
        compares = [Unchanged(key, pair.revision), Unchanged(keys.endophyte(after.name), found.revision)]
        done = (await self._store.commit(compares, [Put(key, after.to_json())])).succeeded
        if done:
            self._note(found, pair)
        return done

    async def _change(self, found: Versioned[Endophyte], pair: Versioned[Pair], after: Endophyte) -> bool:
        key = keys.endophyte(after.name)
        done = (
            await self._store.commit([Unchanged(key, found.revision)], [Put(key, after.to_json())])
        ).succeeded
        if done:
            self._note(found, pair)
        return done
