"""`vdc promote replica`: who carries it out, and moving the replica first where another host is wanted.

The secondary's agent does the work; every other agent hands the request on. A host that has no copy yet is
given one by ending the present protection with that host first among the spares: the controller then protects
there as it always does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hostagent.server import views
from hostagent.server.context import ServerContext
from hostagent.supervisor.arbiter import swap_pair
from vdc.api import models as wire
from vdc.model.endophyte import Endophyte
from vdc.model.errors import ConflictError, RefusedError, UnavailableError
from vdc.model.pair import Pair, SyncState
from vdc.protection.arbitration import go_alone
from vdc.protection.placement import Occupancy, secondary_cost_bytes, why_not, why_not_a_pair
from vdc.store import keys

MOVE_DEADLINE_S = 300.0


async def promote(context: ServerContext, name: str, body: wire.PromoteRequest) -> wire.PromoteResult:
    """Raises ConflictError or RefusedError with the reason why not now, UnavailableError where it takes too long."""
    mirror = context.host.mirror
    endophyte = await views.find_endophyte(mirror, name)
    await mirror.refresh(keys.pair(name))  # another agent may have seen it in sync before this one
    pair = _promotable(endophyte, mirror.pair(name), body.to)
    if body.to is not None and body.to != pair.secondary:
        pair = await _move_replica(context, endophyte, pair, body.to)
    assert pair.secondary is not None
    if pair.secondary != context.host.name:
        peer = context.peer(pair.secondary)
        return await peer.promote_endophyte(name, to=body.to, force=body.force)
    clock = context.host.clock
    began = clock.boottime_s()

    async def ask_primary(before: Pair) -> None:
        if not body.force:
            request = wire.PeerRequest(epoch=before.epoch, from_host=context.host.name)
            await context.peer(before.primary).peer_quiesce(name, request)

    reason = f"promoted to {pair.secondary} by hand"
    after = await context.supervisors.find(name).promote_planned(reason, ask_primary)
    return wire.PromoteResult(
        name=name,
        epoch=after.epoch,
        primary=after.primary,
        previous=pair.primary,
        total_ms=round((clock.boottime_s() - began) * 1000, 1),
        sentence=f"{name} runs on {after.primary} now (was on {pair.primary}), epoch {after.epoch}",
    )


def _promotable(endophyte: Endophyte, pair: Pair | None, to: str | None) -> Pair:
    name = endophyte.name
    if pair is None or pair.secondary is None:
        hint = f"vdc describe endophyte {name}" if endophyte.wants_protection else f"vdc protect {name}"
        raise ConflictError(f"{name} has no replica to promote", code="no-secondary", hint=hint)
    if to == pair.primary:
        raise ConflictError(f"{name} already runs on {to}", code="already-primary")
    if pair.sync is not SyncState.IN_SYNC and to in (None, pair.secondary):
        raise RefusedError(
            f"the replica of {name} on {pair.secondary} is not in sync yet",
            code="not-in-sync",
            hint=f"wait for lockstep: vdc get endophyte {name} -w",
        )
    return pair


async def _move_replica(context: ServerContext, endophyte: Endophyte, pair: Pair, to: str) -> Pair:
    """Protect on `to` instead of where the replica is now, and wait until that is in sync."""
    mirror, name = context.host.mirror, endophyte.name
    context.peer(to)  # raises where it is unknown or does not answer
    occupancy = Occupancy.of(
        (found.value for found in mirror.pairs.values()),
        {other: found.value for other, found in mirror.endophytes.items()},
        without=name,
    )
    host = mirror.hosts[to].value
    reason = why_not_a_pair(mirror.hosts[pair.primary].value, host)
    reason = reason or why_not(endophyte, host, occupancy, secondary_cost_bytes(endophyte))
    if reason:
        raise RefusedError(f"{to} cannot take the replica of {name}: it {reason}", code="no-host")

    def following(present: Pair, request_id: str, now: str) -> Pair:
        after = go_alone(present, reason=f"moving the replica to {to}", request_id=request_id, now=now)
        return after.with_(spares=(to, *(spare for spare in after.spares if spare != to)))

    await swap_pair(context.host, name, pair.epoch, following)
    return await _until_pair(
        context, name, lambda found: found.secondary == to and found.sync is SyncState.IN_SYNC
    )


async def _until_pair(context: ServerContext, name: str, reached: Callable[[Pair], bool]) -> Pair:
    changed = asyncio.Event()
    unsubscribe = context.host.mirror.subscribe(lambda key: changed.set())
    try:
        async with asyncio.timeout(MOVE_DEADLINE_S):
            while (pair := context.host.mirror.pair(name)) is None or not reached(pair):
                changed.clear()
                await changed.wait()
            return pair
    except TimeoutError as error:
        raise UnavailableError(
            f"the replica of {name} was not in sync within {MOVE_DEADLINE_S:.0f} s",
            code="move-late",
            hint=f"vdc describe endophyte {name}",
        ) from error
    finally:
        unsubscribe()
