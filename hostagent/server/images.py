"""Handlers of images: their names, and what nobody needs any more."""

from __future__ import annotations

import asyncio

from aiohttp import web

from hostagent.server.context import ServerContext
from hostagent.server.http import parse_body
from vdc.api import models as wire
from vdc.control.images import ImageRecords, users_of
from vdc.images.stored import check_image
from vdc.images.writing import in_thread
from vdc.model.errors import ConflictError, RefusedError, VdcError
from vdc.model.image import ImageEntry, ImageKind
from vdc.model.snapshot import IMAGE_PREFIX, is_of_snapshot

_PEER_S = 30.0


class ImageHandlers:
    """One method per route, named like it."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._mirror = context.host.mirror
        self._records = ImageRecords(context.host.store, context.host.clock)

    async def list_images(self, request: web.Request) -> wire.ImageList:
        """See the route table."""
        users = users_of(found.value for found in self._mirror.endophytes.values())
        entries = [found.value for _, found in sorted(self._mirror.images.items())]
        return wire.ImageList(
            items=tuple(self._view(entry, users.get(entry.digest, ())) for entry in entries)
        )

    async def register_image(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        body = wire.ImageRegistration.model_validate(await parse_body(request))
        _refuse_snapshots(body.name)
        if body.image.kind is ImageKind.MEMORY:
            raise RefusedError("a guest's memory is part of a snapshot alone", code="image-of-snapshot")
        blobs = self._context.blobs
        missing = [blob.digest for blob in body.image.blobs if not blobs.has(blob.digest)]
        if missing:
            raise ConflictError(f"blob {missing[0]} has not been uploaded to this host", code="blob-missing")
        await asyncio.to_thread(check_image, blobs, body.image)
        digest = await self._records.register(
            body.name, body.image, host=self._context.host.name, source=body.source,
            chunks=await in_thread(lambda: blobs.chunk_lists(body.image), blobs.folder),
        )  # fmt: skip
        return wire.Acknowledged(sentence=f"{body.name} is {digest[:19]}")

    async def remove_image(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        name = request.query.get("name", "")
        _refuse_snapshots(name, *self._names_of(name))
        names = await self._records.unname(name)
        return wire.Acknowledged(sentence=f"removed {', '.join(names)}")

    async def prune_images(self, request: web.Request) -> wire.PruneReport:
        """See the route table. The files of an image that goes are removed by every host by itself."""
        body = wire.PruneRequest.model_validate(await parse_body(request))
        gone = await self._records.prune(named=body.named, is_dry=body.dry_run)
        hosts = await asyncio.gather(*(self._swept(name, is_dry=body.dry_run) for name in self._guest_hosts))
        return wire.PruneReport(
            dry_run=body.dry_run, images=tuple(self._view(entry, ()) for entry in gone),
            size_bytes=self._freed_bytes(gone), hosts=tuple(hosts),
        )  # fmt: skip

    @property
    def _guest_hosts(self) -> list[str]:
        return sorted(name for name, found in self._mirror.hosts.items() if not found.value.is_witness)

    async def _swept(self, host: str, *, is_dry: bool) -> wire.HostSweep:
        if host == self._context.host.name:
            return await self._context.sweep_images(is_dry)
        try:
            async with asyncio.timeout(_PEER_S):
                return await self._context.peer(host).peer_sweep_images(wire.SweepRequest(dry_run=is_dry))
        except (VdcError, TimeoutError) as error:
            return wire.HostSweep(host=host, problem=str(error) or "it does not answer")

    def _freed_bytes(self, gone: tuple[ImageEntry, ...]) -> int:
        digests = {entry.digest for entry in gone}
        kept = {
            blob.digest
            for digest, found in self._mirror.images.items()
            if digest not in digests
            for blob in found.value.image.blobs
        }
        sizes = {blob.digest: blob.size_bytes for entry in gone for blob in entry.image.blobs}
        return sum(size for digest, size in sizes.items() if digest not in kept)

    async def peer_sweep_images(self, request: web.Request) -> wire.HostSweep:
        """See the route table."""
        body = wire.SweepRequest.model_validate(await parse_body(request))
        return await self._context.sweep_images(body.dry_run)

    def _names_of(self, digest: str) -> tuple[str, ...]:
        found = self._mirror.images.get(digest)
        return found.value.names if found else ()

    def _view(self, entry: ImageEntry, users: tuple[str, ...]) -> wire.ImageView:
        """A host that was removed from the cluster holds nothing for it."""
        hosts = tuple(host for host in entry.hosts if host in self._mirror.hosts)
        return wire.ImageView(
            **dict(entry.with_(hosts=hosts)), size_bytes=entry.image.size_bytes, used_by=users
        )


def _refuse_snapshots(*names: str) -> None:
    if any(map(is_of_snapshot, names)):
        raise RefusedError(
            f"names that begin with {IMAGE_PREFIX} belong to snapshots", code="image-of-snapshot",
            hint="vdc snapshot ls",
        )  # fmt: skip
