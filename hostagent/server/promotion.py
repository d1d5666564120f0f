"""`vdc promote replica`: who carries it out, and moving the replica first where another host is wanted.

The secondary's agent does the work; every other agent hands the request on. A host that has no copy yet is
asked for by the wish that `vdc migrate` writes: the leader moves the replica there, and then promotes it.
"""

from __future__ import annotations

import asyncio

from hostagent.server import views
from hostagent.server.context import ServerContext
from hostagent.server.readonly import check_writable
from vdc.api import models as wire
from vdc.model.endophyte import Endophyte
from vdc.model.errors import ConflictError, RefusedError, UnavailableError
from vdc.model.identity import Identity
from vdc.model.pair import Pair, SyncState
from vdc.store import keys

MOVE_DEADLINE_S = 300.0


async def promote(
    context: ServerContext, name: str, body: wire.PromoteRequest, person: Identity | None = None
) -> wire.PromoteResult:
    """For `person`, or for this agent itself where it leads.

    Raises ConflictError or RefusedError with the reason why not now, UnavailableError where it takes too long.
    """
    mirror = context.host.mirror
    endophyte = await views.find_endophyte(mirror, name)
    if body.force:
        assert person is not None  # the role that forcing needs is a person's
        return await force(context, name, body, person)
    await check_writable(context.host)
    await mirror.refresh(keys.pair(name))  # another agent may have seen it in sync before this one
    pair = _promotable(endophyte, mirror.pair(name), body.to)
    if body.to is not None and body.to != pair.secondary:
        return await _by_move(context, pair, body.to, person)
    assert pair.secondary is not None
    if pair.secondary != context.host.name:
        peer = context.peer(pair.secondary, person)
        return await peer.promote_endophyte(name, to=body.to)
    clock = context.host.clock
    began = clock.boottime_s()

    async def ask_primary(before: Pair) -> None:
        request = wire.PeerRequest(epoch=before.epoch, from_host=context.host.name)
        await context.peer(before.primary).peer_quiesce(name, request)

    async def follows(epoch: int) -> None:
        request = wire.PeerRequest(epoch=epoch, from_host=context.host.name)
        others = sorted(mirror.alive - {context.host.name})
        asked = [context.peer(other).peer_follow(name, request) for other in others if other in mirror.hosts]
        await asyncio.gather(
            *asked, return_exceptions=True
        )  # one that does not answer need not be waited for

    reason = _reason(endophyte, pair, is_drained=pair.primary in mirror.drained)
    after = await context.supervisors.find(name).promote_planned(reason, ask_primary, follows)
    return wire.PromoteResult(
        name=name,
        epoch=after.epoch,
        primary=after.primary,
        previous=pair.primary,
        total_ms=round((clock.boottime_s() - began) * 1000, 1),
        sentence=f"{name} runs on {after.primary} now (was on {pair.primary}), epoch {after.epoch}",
    )


def _reason(endophyte: Endophyte, pair: Pair, *, is_drained: bool) -> str:
    """Why, for people: the leader asks for moves and drains in the same way as a person for a promotion."""
    if is_drained:
        return f"promoted to {pair.secondary}: {pair.primary} is drained"
    is_move = endophyte.move is not None and endophyte.move.to == pair.secondary
    return f"{'moved' if is_move else 'promoted'} to {pair.secondary} by hand"


async def force(
    context: ServerContext, name: str, body: wire.PromoteRequest, person: Identity
) -> wire.PromoteResult:
    """The human override, on the secondary's host; raises as `Override.promote`."""
    pair = context.host.mirror.pair(name)
    target = body.to or (pair.secondary if pair else None)
    if pair is None or target is None:
        raise ConflictError(
            f"{name} has no replica to promote", code="no-secondary",
            hint=f"vdc describe endophyte {name}",
        )  # fmt: skip
    if target not in pair.hosts:
        raise ConflictError(f"{target} has no copy of {name}", code="no-copy")
    if target == context.host.name:
        return await context.override.promote(name, body, person.name)
    peer = context.peer(target, person)
    return await peer.promote_endophyte(name, to=body.to, force=True, confirm=body.confirm)


def _promotable(endophyte: Endophyte, pair: Pair | None, to: str | None) -> Pair:
    name = endophyte.name
    if pair is not None and to == pair.primary:
        raise ConflictError(f"{name} already runs on {to}, epoch {pair.epoch}", code="already-primary")
    if pair is None or pair.secondary is None:
        hint = f"vdc describe endophyte {name}" if endophyte.wants_protection else f"vdc protect {name}"
        epoch = f" under epoch {pair.epoch}" if pair else ""
        raise ConflictError(f"{name} has no replica to promote{epoch}", code="no-secondary", hint=hint)
    if pair.sync is not SyncState.IN_SYNC and to in (None, pair.secondary):
        raise RefusedError(
            f"the replica of {name} on {pair.secondary} is not in sync yet",
            code="not-in-sync",
            hint=f"wait for lockstep: vdc get endophyte {name} -w",
        )
    return pair


async def _by_move(
    context: ServerContext, pair: Pair, to: str, person: Identity | None
) -> wire.PromoteResult:
    """Wish that it run on `to`, as `vdc migrate` does, and wait until it does."""
    host, name = context.host, pair.name
    context.peer(to)  # raises where it is unknown or does not answer
    began = host.clock.boottime_s()
    await context.maintenance.move(name, to, by=person.name if person is not None else host.name)
    await host.mirror.refresh(keys.endophyte(name))
    after = await _until_there(context, name, to)
    return wire.PromoteResult(
        name=name,
        epoch=after.epoch,
        primary=after.primary,
        previous=pair.primary,
        total_ms=round((host.clock.boottime_s() - began) * 1000, 1),
        sentence=f"{name} runs on {after.primary} now (was on {pair.primary}), epoch {after.epoch}",
    )


async def _until_there(context: ServerContext, name: str, to: str) -> Pair:
    mirror = context.host.mirror
    changed = asyncio.Event()
    unsubscribe = mirror.subscribe(lambda key: changed.set())
    try:
        async with asyncio.timeout(MOVE_DEADLINE_S):
            while True:
                changed.clear()
                pair, endophyte = mirror.pair(name), mirror.endophyte(name)
                if pair is not None and pair.primary == to:
                    return pair
                if endophyte is None or endophyte.move is None or endophyte.move.to != to:
                    why = endophyte.move_problem if endophyte is not None else ""
                    raise RefusedError(
                        f"{name}: {why or 'the move was taken back'}",
                        code="move-failed",
                        hint=f"vdc events {name}",
                    )
                await changed.wait()
    except TimeoutError as error:
        raise UnavailableError(
            f"{name} does not run on {to} after {MOVE_DEADLINE_S:.0f} s; it goes on moving by itself",
            code="move-late",
            hint=f"vdc describe endophyte {name}; vdc migrate {name} --cancel takes the wish back",
        ) from error
    finally:
        unsubscribe()
