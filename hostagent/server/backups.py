"""Handlers of `vdc backup`: the host that holds a copy serves it, the others pass it on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import BinaryIO

from aiohttp import web

from hostagent.server import views
from hostagent.server.context import ServerContext
from hostagent.server.http import number, parse_body
from hostagent.server.identity import person_of
from hostagent.server.streaming import answer_stream
from hostagent.supervisor.backups import STUCK_S, Backups, HeldCopy
from vdc.api import backups
from vdc.api import models as wire
from vdc.images.content import FileContent
from vdc.images.extents import Extent, Qcow2Map
from vdc.images.formats.problems import MAX_VIRTUAL_BYTES
from vdc.images.writing import in_thread
from vdc.model.errors import ConflictError, InvalidError
from vdc.model.ids import check_dns_label
from vdc.model.secrets import masked

_MOST_DISKS = 64


class BackupHandlers:
    """One method per route, named like it."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._mirror = context.host.mirror

    async def create_backup(self, request: web.Request) -> backups.BackupView:
        """See the route table. Done on the primary's host; others hand the request on."""
        name = request.match_info["name"]
        body = backups.BackupRequest.model_validate(await parse_body(request))
        await views.find_endophyte(self._mirror, name)
        pair = self._mirror.pair(name)
        if pair is None:
            raise ConflictError(f"{name} has no disks yet", code="not-settled", hint="try again in a moment")
        if pair.primary != self._context.host.name:
            return await self._context.peer(pair.primary, person_of(request)).backups.create(name, body)
        return view_of(await self._of(name).begin(quiesce=body.quiesce, since=body.since))

    async def read_backup(self, request: web.Request) -> web.StreamResponse:
        """See the route table. A stream that breaks off has no last part."""
        name, backup = request.match_info["name"], request.match_info["backup"]
        disk = number(request.match_info["disk"], 0, _MOST_DISKS)
        first = number(request.query.get("first", "0"), 0, MAX_VIRTUAL_BYTES)
        host = self._host(request)
        if host != self._context.host.name:
            peer = self._context.peer(host, person_of(request))
            return await answer_stream(
                request, peer.backups.read(name, backup, host, disk, first), stuck_s=STUCK_S
            )
        held = self._of(name)
        with held.reading(backup, disk) as file:
            parts = self._parts(file, first, partial(held.find, backup))
            return await answer_stream(request, parts, stuck_s=STUCK_S)

    async def end_backup(self, request: web.Request) -> wire.Acknowledged:
        """See the route table."""
        name, backup = request.match_info["name"], request.match_info["backup"]
        is_kept = request.query.get("kept") == "true"
        host = self._host(request)
        if host != self._context.host.name:
            peer = self._context.peer(host, person_of(request))
            return await peer.backups.end(name, backup, host, kept=is_kept)
        await self._of(name).end(backup, is_kept=is_kept)
        return wire.Acknowledged(sentence=f"the copy for backup {backup} of {name} is given up")

    async def _parts(
        self, file: BinaryIO, first: int, require_held: Callable[[], object]
    ) -> AsyncIterator[bytes]:
        """The file belongs to a guest's user: its tables are checked, its content is not.

        Once the copy is given up, the stream breaks off: its room is needed, and its last reader closes it.
        """
        content = FileContent(file.fileno(), os.fstat(file.fileno()).st_size)
        folder = self._context.blobs.folder
        disk = await in_thread(lambda: Qcow2Map(content), folder)
        while first < disk.virtual_bytes:
            for extent in await in_thread(partial(disk.extents, first, backups.MOST_PART_BYTES), folder):
                async for piece in self._pieces(file, extent):
                    require_held()
                    yield piece
            first = (first // disk.table_bytes + 1) * disk.table_bytes
        yield backups.head_of(backups.PartKind.END, disk.virtual_bytes)

    async def _pieces(self, file: BinaryIO, extent: Extent) -> AsyncIterator[bytes]:
        if extent.place is None:
            yield backups.head_of(backups.PartKind.ZEROS, extent.offset, extent.length)
            return
        read = partial(os.pread, file.fileno(), extent.length, extent.place)
        data = await in_thread(read, self._context.blobs.folder)
        if len(data) != extent.length:
            raise InvalidError("the copy of the disk is cut off", code="image-unsafe")
        await self._context.bandwidth.take(len(data))
        yield backups.head_of(backups.PartKind.DATA, extent.offset, extent.length)
        yield data

    def _of(self, name: str) -> Backups:
        return self._context.supervisors.find(name).backups

    def _host(self, request: web.Request) -> str:
        host = request.query.get("host") or self._context.host.name
        try:
            return check_dns_label(host)
        except ValueError as error:
            raise InvalidError(f"host: {error}", code="query-invalid") from error


def view_of(held: HeldCopy) -> backups.BackupView:
    """Of a copy, without secrets."""
    snapshot = held.snapshot
    shared = ("endophyte", "uid", "host", "created_at", "is_quiesced", "was_running")
    return backups.BackupView(
        **{name: getattr(snapshot, name) for name in shared},
        id=held.id, since=held.since, full_because=held.full_because, image=held.image,
        manifest=masked(snapshot.manifest).model_dump(mode="json", by_alias=True, exclude_none=True),
        disks=tuple(
            backups.BackupDiskView(name=disk.name, virtual_bytes=disk.virtual_bytes) for disk in snapshot.disks
        ),
    )  # fmt: skip
