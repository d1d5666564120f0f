"""Handlers of `vdc verify`: the primary's agent leads, the secondary's freezes and digests."""

from __future__ import annotations

from aiohttp import web

from hostagent.server import peers, views
from hostagent.server.context import ServerContext
from hostagent.server.http import parse_body
from hostagent.server.identity import person_of
from vdc.api import models as wire
from vdc.model.errors import ConflictError
from vdc.model.pair import Pair, SyncState


class VerificationHandlers:
    """One method per route, named like it."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def verify_endophyte(self, request: web.Request) -> wire.VerifyResult:
        """See the route table. Done on the primary's host; others hand the request on."""
        name = request.match_info["name"]
        body = wire.VerifyRequest.model_validate(await parse_body(request))
        mirror = self._context.host.mirror
        await views.find_endophyte(mirror, name)
        pair = _in_lockstep(name, mirror.pair(name))
        if pair.primary != self._context.host.name:
            peer = self._context.peer(pair.primary, person_of(request))
            return await peer.verify_endophyte(name, dry_run=body.dry_run)
        assert pair.secondary is not None
        supervisor = self._context.supervisors.find(name)
        return await supervisor.verify(self._context.peer(pair.secondary), dry_run=body.dry_run)

    async def peer_freeze(self, request: web.Request) -> wire.Frozen:
        """See the route table."""
        body = wire.PeerRequest.model_validate(await parse_body(request))
        await peers.check_peer(self._context.host, request, body, peers.primary)
        return await self._context.supervisors.find(_name(request)).freeze(body.epoch)

    async def peer_digests(self, request: web.Request) -> wire.MemoryDigests:
        """See the route table."""
        body = wire.DigestRequest.model_validate(await parse_body(request))
        await peers.check_peer(self._context.host, request, body, peers.primary)
        supervisor = self._context.supervisors.find(_name(request))
        return await supervisor.freezer.digests(body.chunks)

    async def peer_thaw(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        body = wire.PeerRequest.model_validate(await parse_body(request))
        await peers.check_peer(self._context.host, request, body, peers.primary)
        await self._context.supervisors.find(_name(request)).freezer.release()
        return wire.Acknowledged(sentence="goes on")


def _name(request: web.Request) -> str:
    return request.match_info["name"]


def _in_lockstep(name: str, pair: Pair | None) -> Pair:
    if pair is None or pair.secondary is None or pair.sync is not SyncState.IN_SYNC:
        raise ConflictError(
            f"{name} is not in lockstep, so there is nothing to compare",
            code="not-in-lockstep",
            hint=f"vdc get endophyte {name}",
        )
    return pair
