"""The leader's reconcile loop: places Endophytes, gives them secondaries and spares, removes what was deleted.

Level-triggered: each pass looks at everything in the mirror and does what is missing; nothing is remembered
between passes but the back-off of hosts that just failed as a secondary. Each change is a transaction with
compares on what the pass looked at, so a pass on stale data changes nothing.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from vdc.control.clock import Clock
from vdc.control.drain import Mover, Promote, Surroundings, situation
from vdc.control.events import EventLog
from vdc.control.images import remove_unneeded_images
from vdc.control.tombstones import tombstone
from vdc.control.trimming import Trimmer
from vdc.control.turns import Turns
from vdc.model.endophyte import CopyStage, Endophyte
from vdc.model.errors import RefusedError, UnavailableError
from vdc.model.event import Severity
from vdc.model.host import Host
from vdc.model.pair import Pair, SyncState
from vdc.model.step import Step
from vdc.protection.arbitration import add_secondary, new_pair, with_spares
from vdc.protection.invariants import check_transition
from vdc.protection.placement import Occupancy, choose_primary, choose_spares
from vdc.store import keys
from vdc.store.mirror import Mirror, Versioned
from vdc.store.protocol import Delete, Put, StateStore, Unchanged

PASS_EVERY_S = 1.0
TRIM_EVERY_PASSES = 300
MAX_BACKOFF_S = 600.0
IN_SYNC_BACKOFF_S = 5.0  # the first time that a secondary is lost which had been in sync
FORGIVEN_AFTER_S = 600.0  # without a failure, from the end of the last back-off on
QUEUED = "waits for its turn to be protected: each host copies one VM at a time"


@dataclass(frozen=True, slots=True)
class Backoff:
    """A host that failed as the secondary of one Endophyte: left alone until `until_s`."""

    until_s: float
    duration_s: float


class Controller:
    """One leader's term."""

    def __init__(
        self,
        store: StateStore,
        mirror: Mirror,
        events: EventLog,
        clock: Clock,
        *,
        backoff_s: float,
        report: Callable[[str], None],
        keep_arbiter_away: Callable[[], Awaitable[None]] | None = None,
        reach: Callable[[Step], Awaitable[None]] | None = None,
        promote: Promote | None = None,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._events = events
        self._clock = clock
        self._backoff_s = backoff_s
        self._report = report
        self._keep_arbiter_away = keep_arbiter_away
        self._reach = reach or _nothing_at
        self._backoffs: dict[tuple[str, str], Backoff] = {}
        self._last_pairs: dict[str, Pair] = {}
        self._protected_by: dict[str, int] = {}  # incarnation of its agent when a primary got its secondary
        self._said: dict[str, str] = {}
        around = Surroundings(self._backing_off, self._log, self._note_withdrawn)
        self._mover = Mover(store, mirror, clock, around, promote)
        self._turns = Turns()
        self._trimmer = Trimmer(store, events)

    async def run(self) -> None:
        """Pass after each change and once a second; ends only by cancellation or loss of the store."""
        wake = asyncio.Event()
        unsubscribe = self._mirror.subscribe(lambda key: wake.set() if _matters(key) else None)
        arbiter = asyncio.create_task(self._mind_arbiter(), name="arbiter")
        try:
            passes = 0
            while True:
                wake.clear()
                await self.reconcile()
                passes += 1
                if passes % TRIM_EVERY_PASSES == 0:
                    await self._trimmer.run()
                with suppress(TimeoutError):
                    async with asyncio.timeout(PASS_EVERY_S):  # wait_for may forget that it was cancelled
                        await wake.wait()
        finally:
            unsubscribe()
            arbiter.cancel()
            await asyncio.gather(arbiter, return_exceptions=True)
            await self._mover.close()

    async def _mind_arbiter(self) -> None:
        """Beside the passes, which have no pause on a busy cluster and must not wait for a member that is dead."""
        while self._keep_arbiter_away is not None:
            await asyncio.sleep(PASS_EVERY_S)
            try:
                await self._keep_arbiter_away()
            except Exception as error:  # this task's boundary: nobody would start it again
                self._report(f"defect in keeping the arbiter away: {error!r}")

    async def reconcile(self) -> None:
        """One pass over everything. A fault with one Endophyte does not keep the others from their turn."""
        names = set(self._mirror.endophytes) | set(self._mirror.pairs)
        for name in self._turns.in_turn(names, self._pairs(), self._clock.boottime_s()):
            if not self._mirror.is_readable(name):
                continue
            try:
                await self._reconcile_one(name)
            except UnavailableError:
                raise
            except RefusedError as refusal:
                await self._say_once(name, refusal.code, str(refusal))
            except Exception as error:  # one Endophyte's boundary: the others get their turn
                self._report(f"{name}: defect in the controller: {error!r}")
        for digest in await remove_unneeded_images(self._store, self._mirror):
            self._report(f"image {digest} has no name any more and no VM is made of it: removed")

    async def _reconcile_one(self, name: str) -> None:
        found, pair = self._mirror.endophytes.get(name), self._mirror.pairs.get(name)
        if pair is not None:
            self._note_failures(pair.value)
        if found is None:
            return
        endophyte = found.value
        if endophyte.deleting:
            await self._finish_deletion(found, pair)
        elif pair is None:
            await self._place(found)
        elif await self._mover.advance(found, pair):
            return
        elif endophyte.wants_secondary and pair.value.secondary is None:
            await self._protect(endophyte, pair)
        elif endophyte.wants_protection:
            await self._keep_spares(endophyte, pair)

    # ---- the four things that it does

    async def _place(self, found: Versioned[Endophyte]) -> None:
        endophyte = found.value
        primary = choose_primary(endophyte, self._alive_hosts(), self._occupancy(endophyte.name))
        used = {pair.value.slot for pair in self._mirror.pairs.values()}
        slot = next(number for number in range(2700) if number not in used)
        first = new_pair(
            endophyte.name, endophyte.uid, primary, (), slot, request_id=_request(), now=self._clock.wall()
        )
        spares = choose_spares(endophyte, first, self._alive_hosts(), self._occupancy(endophyte.name))
        pair = with_spares(first, spares, request_id=first.request_id, now=first.changed_at)
        check_transition(None, pair)
        result = await self._store.commit(
            [
                Unchanged(keys.endophyte(endophyte.name), found.revision),
                Unchanged(keys.pair(endophyte.name), 0),
                Unchanged(keys.slot(slot), 0),
            ],
            [Put(keys.pair(endophyte.name), pair.to_json()), Put(keys.slot(slot), endophyte.uid)],
        )
        if result.succeeded:
            self._said.pop(endophyte.name, None)
            await self._reach(Step.PLACE_COMMITTED)
            await self._log(endophyte.name, "placed", f"placed on {primary}", pair.epoch)

    async def _protect(self, endophyte: Endophyte, pair: Versioned[Pair]) -> None:
        now = situation(self._mirror, endophyte, pair.value, self._backing_off(endophyte.uid))
        if not now.is_running_alone:
            return
        busy = self._turns.busy_hosts(self._pairs(), self._mirror.alive)
        recorded = now.copies[pair.value.primary].older
        older = [copy.host for copy in pair.value.older if copy.record_name in recorded]
        only = endophyte.move.to if endophyte.move is not None else None
        secondary = now.place_for_copy(only=only, busy=busy, older=older)
        if secondary in busy or pair.value.primary in busy:
            self._turns.reserve(pair.value.primary, secondary)
            await self._say_once(endophyte.name, "resync-queued", QUEUED, Severity.NORMAL)
            return
        after = add_secondary(pair.value, secondary, request_id=_request(), now=self._clock.wall())
        if await self._swap(pair, after):
            self._protected_by[endophyte.name] = self._incarnation_of(after.primary)
            self._turns.began(after)
            self._last_pairs[endophyte.name] = after  # the next pass may see it given up already
            self._said.pop(endophyte.name, None)
            await self._reach(Step.PROTECT_COMMITTED)
            await self._log(endophyte.name, "protecting", f"protecting on {secondary}", after.epoch)

    async def _keep_spares(self, endophyte: Endophyte, pair: Versioned[Pair]) -> None:
        spares = choose_spares(endophyte, pair.value, self._alive_hosts(), self._occupancy(endophyte.name))
        if set(spares) != set(pair.value.spares):
            await self._swap(
                pair, with_spares(pair.value, spares, request_id=_request(), now=self._clock.wall())
            )

    async def _finish_deletion(self, found: Versioned[Endophyte], pair: Versioned[Pair] | None) -> None:
        endophyte = found.value
        name = endophyte.name
        copies = [copy for copy in self._mirror.copies(name) if copy.uid == endophyte.uid]
        if (
            pair is not None and pair.value.primary in self._mirror.hosts
        ):  # else the host was removed for good
            primary = self._mirror.observed(name, pair.value.primary)
            if primary is None or primary.stage is not CopyStage.ABSENT or primary.error:
                return
        if any(copy.stage is not CopyStage.ABSENT and copy.host in self._mirror.alive for copy in copies):
            return
        removed: list[Put | Delete] = [
            *tombstone(
                endophyte.uid, self._clock.wall(), self._mirror.deleted
            ),  # before anybody misses the rest
            Delete(keys.pair(name)),
            Delete(keys.observed(name, ""), is_prefix=True),
            *_replaced_by(endophyte, endophyte.successor),
        ]
        compares = [Unchanged(keys.endophyte(name), found.revision)]
        if pair is not None:
            removed.append(Delete(keys.slot(pair.value.slot)))
        compares.append(Unchanged(keys.pair(name), pair.revision if pair else 0))
        await self._reach(Step.DELETE_READY)
        if (await self._store.commit(compares, removed)).succeeded:
            await self._reach(Step.DELETE_COMMITTED)
            if endophyte.successor is None:
                await self._log(name, "deleted", "deleted with its disks", 0)
            else:
                sentence = f"its disks are those of {endophyte.successor.manifest.spec.image} now"
                await self._log(name, "restored", sentence, 0)

    # ---- helpers

    def _note_failures(self, pair: Pair) -> None:
        """Start a back-off where the primary went on without a secondary that was still wanted."""
        before = self._last_pairs.get(pair.name)
        self._last_pairs[pair.name] = pair
        if before is None or before.uid != pair.uid or before.epoch == pair.epoch or before.secondary is None:
            return
        endophyte, primary = self._mirror.endophyte(pair.name), self._mirror.observed(pair.name, pair.primary)
        kept_primary = pair.primary == before.primary and pair.secondary is None
        if endophyte is None or (primary is not None and primary.restarts < endophyte.restarts):
            return  # a restart does without the secondary, which has done nothing wrong
        if self._protected_by.get(pair.name) not in (None, self._incarnation_of(pair.primary)):
            return  # nor where the primary's agent died while it protected, and began anew
        if any(older.host == before.secondary for older in pair.older):
            return  # it left in order, and its disks are still good
        if kept_primary and endophyte.wants_secondary:
            now = self._clock.boottime_s()
            last = self._backoffs.get((pair.uid, before.secondary))
            if last is not None and now < last.until_s + FORGIVEN_AFTER_S:
                duration = min(MAX_BACKOFF_S, last.duration_s * 2)
            else:  # one that was in sync had been made all right; what ended it may be over soon
                was_in_sync = before.sync is SyncState.IN_SYNC
                duration = min(self._backoff_s, IN_SYNC_BACKOFF_S) if was_in_sync else self._backoff_s
            self._backoffs[pair.uid, before.secondary] = Backoff(now + duration, duration)

    def _incarnation_of(self, host: str) -> int:
        found = self._mirror.hosts.get(host)
        return found.value.incarnation if found else 0

    def _note_withdrawn(self, pair: Pair) -> None:
        """The secondary of this version left on request: no failure to back off for."""
        self._last_pairs[pair.name] = pair

    def _backing_off(self, uid: str) -> frozenset[str]:
        now = self._clock.boottime_s()
        return frozenset(
            host
            for (owner, host), backoff in self._backoffs.items()
            if owner == uid and backoff.until_s > now
        )

    def _pairs(self) -> dict[str, Pair]:
        return {name: found.value for name, found in self._mirror.pairs.items()}

    def _alive_hosts(self) -> list[Host]:
        return [found.value for name, found in self._mirror.hosts.items() if name in self._mirror.alive]

    def _occupancy(self, without: str) -> Occupancy:
        endophytes = {name: found.value for name, found in self._mirror.endophytes.items()}
        return Occupancy.of(
            (found.value for found in self._mirror.pairs.values()), endophytes, without=without
        )

    async def _swap(self, before: Versioned[Pair], after: Pair) -> bool:
        check_transition(before.value, after)
        key = keys.pair(after.name)
        return (
            await self._store.commit([Unchanged(key, before.revision)], [Put(key, after.to_json())])
        ).succeeded

    async def _say_once(
        self, name: str, code: str, sentence: str, severity: Severity = Severity.WARNING
    ) -> None:
        if self._said.get(name) != sentence:
            self._said[name] = sentence
            await self._log(name, code, sentence, 0, severity)

    async def _log(
        self, name: str, code: str, sentence: str, epoch: int, severity: Severity = Severity.NORMAL
    ) -> None:
        self._report(f"{name}: {sentence}")
        await self._events.append(self._events.make(name, code, sentence, epoch=epoch, severity=severity))


def _matters(key: str) -> bool:
    return not key.startswith((keys.EVENTS, keys.LEADER))


def _replaced_by(endophyte: Endophyte, successor: Endophyte | None) -> list[Put | Delete]:
    """Its record and its reservations go, or become its successor's, which has the same name and addresses."""
    main = keys.endophyte(endophyte.name)
    reserved = [
        *(keys.address(nic.network, nic.address) for nic in endophyte.nics),
        *(keys.mac(nic.mac) for nic in endophyte.nics),
    ]
    if successor is None:
        return [Delete(main), *(Delete(key) for key in reserved)]
    return [Put(main, successor.to_json()), *(Put(key, successor.uid) for key in reserved)]


async def _nothing_at(_: Step) -> None:
    """Where no failpoints are wanted."""


def _request() -> str:
    return uuid.uuid4().hex
