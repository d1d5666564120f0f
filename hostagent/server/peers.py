"""Peer routes: whether the calling host is the one that may ask this about a VM.

The certificate says which host calls, the arbitration record says what part it has. A record that this host has not
heard of yet is read from the store before anybody is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from aiohttp import web

from hostagent.server.identity import caller_of
from hostagent.supervisor.node import NodeContext
from vdc.api.models import PeerRequest
from vdc.model.errors import ForbiddenError, UnavailableError
from vdc.model.pair import Pair
from vdc.store import keys

Part = Callable[[Pair], str | None]  # which host may ask, by the record


def primary(pair: Pair) -> str | None:
    """The primary's host."""
    return pair.primary


def secondary(pair: Pair) -> str | None:
    """The secondary's host."""
    return pair.secondary


def takes_over(epoch: int) -> Part:
    """The host whose epoch this is; until it is won, the secondary of the one before, which asks for it."""
    return lambda pair: pair.primary if pair.epoch >= epoch else pair.secondary


async def check_peer(host: NodeContext, request: web.Request, body: PeerRequest, part: Part) -> None:
    """Raises ForbiddenError: `wrong-host` where the body names another host than calls, else `not-partner`."""
    caller = caller_of(request)
    name = request.match_info["name"]
    if caller is None or caller.name != body.from_host:
        who = caller.name if caller is not None else "nobody"
        raise ForbiddenError(f"{who} cannot speak for {body.from_host[:63]}", code="wrong-host")
    if _has_part(host, name, caller.name, part):
        return
    with suppress(UnavailableError):  # then what is known has to do
        await host.mirror.refresh(keys.pair(name))
    if not _has_part(host, name, caller.name, part):
        raise ForbiddenError(f"{caller.name} has no part in {name} that may ask this", code="not-partner")


def _has_part(host: NodeContext, name: str, caller: str, part: Part) -> bool:
    pair = host.mirror.pair(name)
    return pair is not None and part(pair) == caller
