"""Handlers about the cluster: hosts, networks, events, images, health."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from aiohttp import web
from pydantic import ValidationError

from hostagent.server import views
from hostagent.server.context import ServerContext
from hostagent.server.http import number, parse_body, stream_lines
from hostagent.server.limits import paced
from hostagent.server.majority import notes_of
from vdc import __version__
from vdc.api import models as wire
from vdc.api.openapi import build_openapi
from vdc.control.events import MAX_EVENTS, read_events
from vdc.images.reference import check_digest, digest_of, normalise_reference
from vdc.images.stored import check_image
from vdc.model.base import Record
from vdc.model.errors import ConflictError, NotFoundError
from vdc.model.event import Event
from vdc.model.image import ImageEntry
from vdc.protection.majority import may_lose
from vdc.store import keys
from vdc.store.protocol import ChangeKind, Delete, Put, Unchanged

EMPTY_SHA256 = "sha256:" + hashlib.sha256(b"").hexdigest()


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

    # ---- images

    async def list_images(self, request: web.Request) -> wire.ImageList:
        """See the route table."""
        return wire.ImageList(items=tuple(found.value for _, found in sorted(self._mirror.images.items())))

    async def register_image(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        body = wire.ImageRegistration.model_validate(await parse_body(request))
        name, digest = normalise_reference(body.name), digest_of(body.image)
        missing = [blob.digest for blob in body.image.blobs if not self._context.blobs.has(blob.digest)]
        if missing:
            raise ConflictError(f"blob {missing[0]} has not been uploaded to this host", code="blob-missing")
        await asyncio.to_thread(check_image, self._context.blobs, body.image)
        me = self._context.host.name
        for _ in range(8):
            item = await self._store.get(keys.image(digest))
            entry = (
                ImageEntry.from_json(item.value)
                if item
                else ImageEntry(digest=digest, image=body.image, created_at=self._context.host.clock.wall())
            )
            entry = entry.with_(
                names=tuple(sorted({*entry.names, name})), hosts=tuple(sorted({*entry.hosts, me}))
            )
            before = await self._store.get(keys.image_name(name))
            compares = [
                Unchanged(keys.image(digest), item.mod_revision if item else 0),
                Unchanged(keys.image_name(name), before.mod_revision if before else 0),
            ]
            puts: list[Put | Delete] = [
                Put(keys.image(digest), entry.to_json()),
                Put(keys.image_name(name), digest),
            ]
            if before is not None and before.value != digest:
                await self._strip_name(before.value, name, compares, puts)
            if (await self._store.commit(compares, puts)).succeeded:
                return wire.Acknowledged(sentence=f"{name} is {digest[:19]}")
        raise ConflictError(f"{name} is being changed by others", code="contention", hint="try again")

    async def _strip_name(
        self, digest: str, name: str, compares: list[Unchanged], operations: list[Put | Delete]
    ) -> None:
        """The name moves to another image. The one that had it keeps its content while a VM is made of it."""
        item = await self._store.get(keys.image(digest))
        if item is not None:
            entry = ImageEntry.from_json(item.value)
            kept = tuple(other for other in entry.names if other != name)
            compares.append(Unchanged(item.key, item.mod_revision))
            operations.append(Put(item.key, entry.with_(names=kept).to_json()))

    async def remove_image(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        name = normalise_reference(request.query.get("name", ""))
        named = await self._store.get(keys.image_name(name))
        if named is None:
            raise NotFoundError(f"there is no image {name}", code="image-not-found", hint="vdc image ls")
        users = [
            n for n, found in self._mirror.endophytes.items() if named.value in found.value.image_digests
        ]
        if users:
            raise ConflictError(f"image {name} is used by {', '.join(sorted(users))}", code="image-in-use")
        item = await self._store.get(keys.image(named.value))
        compares = [Unchanged(named.key, named.mod_revision)]
        operations: list[Put | Delete] = [Delete(named.key)]
        if item is not None:
            entry = ImageEntry.from_json(item.value)
            kept = tuple(other for other in entry.names if other != name)
            compares.append(Unchanged(item.key, item.mod_revision))
            operations.append(Put(item.key, entry.with_(names=kept).to_json()) if kept else Delete(item.key))
        if not (await self._store.commit(compares, operations)).succeeded:
            raise ConflictError(f"{name} is being changed by others", code="contention", hint="try again")
        return wire.Acknowledged(sentence=f"removed {name}")

    async def has_blob(self, request: web.Request) -> web.Response:
        """See the route table."""
        digest = check_digest(request.match_info["digest"])
        return web.Response(status=200 if self._context.blobs.has(digest) else 404)

    async def read_blob(self, request: web.Request) -> web.StreamResponse:
        """See the route table. Understands Range, so that a broken transfer can go on."""
        digest = check_digest(request.match_info["digest"])
        if not self._context.blobs.has(digest):
            raise NotFoundError(f"blob {digest} is not on {self._context.host.name}", code="blob-not-found")
        return web.FileResponse(self._context.blobs.path(digest))

    async def write_blob(self, request: web.Request) -> wire.BlobReceipt:
        """See the route table."""
        digest = check_digest(request.match_info["digest"])
        blob = await self._context.blobs.write(digest, paced(request.content), request.content_length)
        return wire.BlobReceipt(digest=blob.digest, size_bytes=blob.size_bytes)

    async def close(self) -> None:
        """Nothing to release."""
        await asyncio.sleep(0)
