"""Handlers about the cluster: hosts, networks, events, health."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web
from pydantic import ValidationError

from hostagent.server import views
from hostagent.server.context import ServerContext
from hostagent.server.http import number, stream_lines
from hostagent.server.majority import notes_of
from vdc import __version__
from vdc.api import models as wire
from vdc.api.openapi import build_openapi
from vdc.control.events import MAX_EVENTS, read_events
from vdc.model.base import Record
from vdc.model.event import Event
from vdc.protection.majority import may_lose
from vdc.store import keys
from vdc.store.protocol import ChangeKind


class ClusterHandlers:
    """One method per route, named like it."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._mirror = context.host.mirror
        self._store = context.host.store

    async def health(self, request: web.Request) -> wire.Health:
        """See the route table."""
        host = self._context.host
        return wire.Health(sentence=f"{host.name} serves", lineage=host.lineage)

    async def openapi(self, request: web.Request) -> object:
        """See the route table."""
        return build_openapi()

    async def cluster(self, request: web.Request) -> wire.ClusterStatus:
        """See the route table."""
        host = self._context.host
        silent_s = host.store_silent_ms() / 1000
        members = await self._context.members()
        return wire.ClusterStatus(
            version=__version__,
            host=host.name,
            leader=self._mirror.leader,
            store="ok" if silent_s < 3 else f"has not answered for {silent_s:.0f} s",
            members=tuple(
                {"endpoint": m.endpoint, "healthy": m.is_healthy, "leader": m.is_leader, "error": m.error}
                for m in members
            ),
            majority=(left := may_lose(len(members), sum(m.is_healthy for m in members))) >= 0,
            may_lose=max(0, left),
            witnesses=tuple(n for n, found in sorted(self._mirror.hosts.items()) if found.value.is_witness),
            lineage=self._mirror.lineage,
            forcing=self._context.override.doing,
            notes=notes_of(host, members),
        )

    async def doctor(self, request: web.Request) -> wire.DoctorReport:
        """See the route table."""
        return wire.DoctorReport(host=self._context.host.name, checks=await self._context.checks())

    async def list_nodes(self, request: web.Request) -> wire.NodeList:
        """See the route table."""
        members = await self._context.members()
        return wire.NodeList(
            items=views.node_statuses(self._mirror, members), notes=notes_of(self._context.host, members)
        )

    async def list_networks(self, request: web.Request) -> wire.NetworkList:
        """See the route table."""
        return wire.NetworkList(
            items=tuple(found.value for _, found in sorted(self._mirror.networks.items()))
        )

    async def list_events(self, request: web.Request) -> wire.EventList:
        """See the route table."""
        limit = number(request.query.get("limit", "200"), 1, MAX_EVENTS)
        name = request.query.get("name")
        return wire.EventList(items=await views.events(self._context.host, name, limit))

    async def watch_events(self, request: web.Request) -> web.StreamResponse:
        """See the route table."""
        return await stream_lines(request, self._events(request.query.get("name")))

    async def _events(self, name: str | None) -> AsyncIterator[Record]:
        listing = await self._store.list(keys.EVENTS)
        for event in await read_events(self._store, name=name, limit=20):
            yield event
        async for change in self._store.watch(keys.EVENTS, from_revision=listing.revision + 1):
            if change.kind is ChangeKind.PUT and change.item is not None:
                try:
                    event = Event.from_json(change.item.value)
                except ValidationError:  # as in a list: not worth hiding those that follow
                    continue
                if name is None or event.name == name:
                    yield event
