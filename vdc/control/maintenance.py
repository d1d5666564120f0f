"""Writing the wishes of maintenance: drain a host, use it again, move a VM. And how far a drain has come.

Each wish is one compare-and-swap on the records; the leader's controller does the work (drain.py).
"""

from __future__ import annotations

import uuid
from datetime import datetime

from vdc.control.clock import Clock
from vdc.control.desired import DesiredState
from vdc.control.drain import situation
from vdc.control.identities import revocations_of
from vdc.model.endophyte import Endophyte, RunState
from vdc.model.errors import ConflictError, NotFoundError, RefusedError, UnavailableError
from vdc.model.identity import Role
from vdc.model.maintenance import DrainItem, DrainReport, DrainState, DrainWay, Maintenance, Move
from vdc.model.pair import Pair, SyncState
from vdc.protection.arbitration import go_alone
from vdc.protection.drain import Do, drain_item, step_for_move
from vdc.protection.invariants import check_transition
from vdc.store import keys
from vdc.store.mirror import Mirror, Versioned
from vdc.store.protocol import Delete, Put, StateStore, Unchanged

ATTEMPTS = 8
BATCH = 100  # keys a transaction; etcd takes 128


class MaintenanceWishes:
    """The operator's side of maintenance."""

    def __init__(self, store: StateStore, mirror: Mirror, clock: Clock, desired: DesiredState) -> None:
        self._store = store
        self._mirror = mirror
        self._clock = clock
        self._desired = desired

    # ---- hosts

    async def drain(
        self, host: str, *, by: str = "", reason: str = "", leave_stopped: bool = False, dry_run: bool = False
    ) -> DrainReport:
        """Wish that nothing be on a host; the report is what the leader is going to do. Idempotent.

        Raises NotFoundError, RefusedError (`last-host`: no other may take anything; `stopped-vms`: their disks
        would have to stay and `leave_stopped` does not allow it), UnavailableError.
        """
        for _ in range(ATTEMPTS):
            listing = await self._store.list(keys.MAINTENANCE)
            present = {item.key: item for item in listing.items}
            await self.require_host(host)
            self._require_another(host, {keys.last_part(key) for key in present})
            key = keys.maintenance(host)
            before = Maintenance.from_json(present[key].value) if key in present else None
            wish = Maintenance(
                host=host, since=before.since if before else self._clock.wall(), by=by or (before.by if before else ""),
                reason=reason or (before.reason if before else ""),
                leave_stopped=leave_stopped or (before is not None and before.leave_stopped),
            )  # fmt: skip
            planned = self.report(host, wish)
            _refuse_for_stopped(planned, host)
            if dry_run:
                return planned.model_copy(update={"wish": before})
            compares = [
                Unchanged(keys.maintenance(other), item.mod_revision if item else 0)
                for other in self._mirror.hosts
                for item in (present.get(keys.maintenance(other)),)
            ]
            if (await self._store.commit(compares, [Put(key, wish.to_json())])).succeeded:
                return planned
        raise UnavailableError(f"{host} could not be drained: others kept changing it", code="contention")

    async def resume(self, host: str) -> Maintenance | None:
        """Take the wish back; returns it, or None where there was none. Raises NotFoundError."""
        await self.require_host(host)
        item = await self._store.get(keys.maintenance(host))
        if item is None:
            return None
        await self._store.commit([], [Delete(item.key)])
        return Maintenance.from_json(item.value)

    def report(self, host: str, wish: Maintenance | None = None) -> DrainReport:
        """How far the drain of a host has come; with `wish`, as if that were stored already."""
        stored = self._mirror.maintenance.get(host)
        wish = wish or (stored.value if stored else None)
        items = [self._item(name, host, wish) for name in sorted(self._mirror.pairs)]
        return DrainReport(
            host=host,
            wish=wish,
            alive=host in self._mirror.alive,
            items=tuple(item for item in items if item is not None),
        )

    def _item(self, name: str, host: str, wish: Maintenance | None) -> DrainItem | None:
        endophyte, pair = self._mirror.endophyte(name), self._mirror.pair(name)
        if endophyte is None or pair is None or pair.uid != endophyte.uid:
            return None
        if host not in (*pair.hosts, *pair.spares) and self._mirror.observed(name, host) is None:
            return None
        now = situation(self._mirror, endophyte, pair, drained_too=host)
        return drain_item(now, host, may_stay=wish is not None and wish.leave_stopped)

    async def remove(self, host: str, *, force: bool = False) -> tuple[str, ...]:
        """Forget a host that is gone for good; returns the VMs that are lost with it.

        That it is gone is the operator's word, and the proof of death that I5 asks for: its VMs count as ended,
        so that they can be deleted. With `force` its replicas are given up where nobody else can do that, because
        the primary's host does not answer either; who may start a guest does not change by it. Raises
        NotFoundError, ConflictError (`host-alive`, `has-part`), RefusedError (`vms-lost`: only with `force`).
        """
        await self.require_host(host)
        if await self._store.get(keys.liveness(host)) is not None:
            raise ConflictError(
                f"{host} answers", code="host-alive", hint=f"vdc node drain {host}, then stop its agent"
            )
        named = [found for found in self._mirror.pairs.values() if host in found.value.hosts]
        pairs = await self._without_replicas(host, named, force=force)
        lost = tuple(sorted(found.value.name for found in pairs))
        if lost and not force:
            raise RefusedError(
                f"the only copy of {', '.join(lost)} is on {host}",
                code="vms-lost",
                hint=f"vdc node remove {host} --force gives them up",
            )
        await self._forget(host, pairs)
        return lost

    async def _without_replicas(
        self, host: str, pairs: list[Versioned[Pair]], *, force: bool
    ) -> list[Versioned[Pair]]:
        """Give up the replicas on a host that is gone; returns the pairs of which it has the only copy.

        Raises ConflictError (`has-part`) where the other copy may go on: its host lives, or has not been declared
        gone yet. Of two hosts that are gone, each with replicas of the other's VMs, each has to be declared gone
        before any of these VMs is lost.
        """
        for pair in (found.value for found in pairs):
            is_replica = pair.secondary == host
            if not is_replica and pair.sync is not SyncState.IN_SYNC:
                continue  # it has the only copy
            other = pair.primary if is_replica else pair.secondary
            assert other is not None
            if await self._store.get(keys.liveness(other)) is not None:
                raise _has_part(
                    f"{pair.name} is about to go on without {host}; the record still names it",
                    f"try again in a moment; vdc describe endophyte {pair.name}",
                )
            if is_replica and not force:
                raise _has_part(
                    f"{host} has the replica of {pair.name}, whose primary's host {other} does not answer",
                    f"bring {other} back, or vdc node remove {host} --force gives the replica up",
                )
        for found in pairs:
            if found.value.secondary == host:
                await self._give_up_replica(host, found)
        kept = [found for found in pairs if found.value.primary == host]
        for pair in (found.value for found in kept):
            if pair.sync is SyncState.IN_SYNC:
                raise _has_part(
                    f"the replica of {pair.name} on {pair.secondary} is complete, and may be all that is left of it",
                    f"bring {pair.secondary} back; where that is gone for good too: "
                    f"vdc node remove {pair.secondary} --force, then this again",
                )
        return kept

    async def _give_up_replica(self, host: str, found: Versioned[Pair]) -> None:
        pair, key = found.value, keys.pair(found.value.name)
        reason, request, at = f"{host} was declared gone for good", uuid.uuid4().hex, self._clock.wall()
        after = go_alone(pair, reason=reason, request_id=request, now=at)
        after = after.with_(spares=tuple(spare for spare in after.spares if spare != host))
        check_transition(pair, after)
        compares = [*(Unchanged(keys.liveness(one), 0) for one in pair.hosts), Unchanged(key, found.revision)]
        if not (await self._store.commit(compares, [Put(key, after.to_json())])).succeeded:
            raise ConflictError(f"{pair.name} changed, or one of its hosts came back", code="host-alive")

    async def _forget(self, host: str, pairs: list[Versioned[Pair]]) -> None:
        claim = await self._store.get(keys.machine(host))
        await self._revoke(host)
        for digest, found in list(self._mirror.images.items()):
            if host in found.value.hosts:
                kept = tuple(other for other in found.value.hosts if other != host)
                key, entry = keys.image(digest), found.value.with_(hosts=kept)
                await self._store.commit([Unchanged(key, found.revision)], [Put(key, entry.to_json())])
        said = [keys.observed(name, host) for name in {*self._mirror.endophytes, *self._mirror.pairs}]
        for start in range(0, len(said), BATCH):
            await self._store.commit([], [Delete(key) for key in said[start : start + BATCH]])
        compares = [Unchanged(keys.pair(found.value.name), found.revision) for found in pairs[:BATCH]]
        compares.append(
            Unchanged(keys.machine(host), claim.mod_revision if claim else 0)
        )  # no new certificate
        reason, request, at = f"{host} was declared gone for good", uuid.uuid4().hex, self._clock.wall()
        gone: list[Put | Delete] = [
            Delete(keys.host(host)),
            Delete(keys.maintenance(host)),
            Delete(keys.machine(host)),
            Delete(keys.trust(host)),
            *(  # what a secondary got of a copy that was never whole goes too
                Put(
                    keys.pair(found.value.name),
                    go_alone(found.value, reason=reason, request_id=request, now=at).to_json(),
                )
                for found in pairs[: BATCH // 2]
                if found.value.secondary is not None
            ),
        ]
        if not (await self._store.commit([Unchanged(keys.liveness(host), 0), *compares], gone)).succeeded:
            raise ConflictError(f"{host} came back, or a VM on it changed", code="host-alive")

    async def _revoke(self, host: str) -> None:
        """Whoever has the disk of a removed host must not speak for it."""
        now = datetime.fromisoformat(self._clock.wall())
        found = await revocations_of(
            self._store, host, (Role.HOST, Role.WITNESS), now=now, by=f"the removal of {host}"
        )
        for start in range(0, len(found), BATCH):
            await self._store.commit([], found[start : start + BATCH])

    async def require_host(self, host: str) -> None:
        """Raises NotFoundError (`host-not-found`)."""
        if host not in self._mirror.hosts and await self._store.get(keys.host(host)) is None:
            raise NotFoundError(
                f"there is no host {host[:63]!r}", code="host-not-found", hint="vdc get nodes"
            )

    def _require_another(self, host: str, drained: set[str]) -> None:
        others = [
            name
            for name, found in self._mirror.hosts.items()
            if name not in {host, *drained}
            and found.value.schedulable
            and not found.value.is_witness
            and name in self._mirror.alive
        ]
        if not others:
            raise RefusedError(
                f"{host} is the last host that may run guests: no other one answers and is not drained",
                code="last-host",
                hint="vdc get nodes; vdc node resume another one first, or stop the VMs",
            )

    # ---- VMs

    async def move(self, name: str, to: str, *, by: str = "") -> Endophyte:
        """Wish that a VM run on `to`. Raises RefusedError with the reason where it could not begin now."""

        def wish(present: Endophyte) -> Endophyte:
            moved = present.with_(move=Move(to=to, asked_at=self._clock.wall(), by=by), move_problem="")
            self._require_movable(moved, to)
            before = present.move
            if before is not None and (before.to, before.drained) == (to, None):
                return present  # the same wish again
            return moved

        await self.require_host(to)
        return await self._desired.change(name, wish)

    async def give_up_move(self, name: str) -> Endophyte:
        """Take the wish back: a copy that was made for it alone goes, the primary stays where it is."""
        return await self._desired.change(name, lambda present: present.with_(move=None, move_problem=""))

    def _require_movable(self, moved: Endophyte, to: str) -> None:
        name, pair = moved.name, self._mirror.pair(moved.name)
        if pair is None or pair.uid != moved.uid:
            raise ConflictError(f"{name} has not been placed yet", code="not-placed")
        if pair.primary == to:
            raise ConflictError(f"{name} already runs on {to}", code="already-primary")
        if moved.run is not RunState.RUNNING:
            raise ConflictError(
                f"{name} is {moved.run.value}, and only a running guest moves",
                code="not-running",
                hint=f"vdc start {name}",
            )
        step = step_for_move(situation(self._mirror, moved, pair))
        if step.do is Do.GIVE_UP:
            raise RefusedError(f"{name} cannot move to {to}: {step.sentence}", code="cannot-move")


def _has_part(sentence: str, hint: str) -> ConflictError:
    return ConflictError(sentence, code="has-part", hint=hint)


def _refuse_for_stopped(report: DrainReport, host: str) -> None:
    disks = (item for item in report.items if item.way is DrainWay.DISK)
    stuck = [item.name for item in disks if item.state is DrainState.BLOCKED]
    if stuck and report.alive:
        raise RefusedError(
            f"stopped on {host}, with disks that lie there alone: {', '.join(stuck)}",
            code="stopped-vms",
            hint="start them (they move while they run), delete them, or leave them there: --leave-stopped",
        )
