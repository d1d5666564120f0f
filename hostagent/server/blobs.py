"""Handlers of blobs: whole files of images, by digest."""

from __future__ import annotations

import os
import re
from functools import partial

from aiohttp import web

from hostagent.server.context import ServerContext
from hostagent.server.limits import paced
from vdc.api import models as wire
from vdc.api.transport import BUSY, RECEIVED
from vdc.images.reference import check_digest
from vdc.images.writing import in_thread
from vdc.model.errors import InvalidError

_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{0,19})")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


class BlobHandlers:
    """One method per route, named like it."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._blobs = context.blobs

    async def has_blob(self, request: web.Request) -> web.Response:
        """See the route table."""
        digest = check_digest(request.match_info["digest"])
        if self._blobs.has(digest):
            return web.Response()
        headers = {RECEIVED: str(self._blobs.received(digest))}
        if self._blobs.is_receiving(digest):
            headers[BUSY] = "yes"
        return web.Response(status=404, headers=headers)

    async def read_blob(self, request: web.Request) -> web.StreamResponse:
        """See the route table. Understands one range, so that a transfer can go on, or have a part of it.

        Not aiohttp's FileResponse: over TLS that sends 16 KiB at a time, and costs six times as much CPU.
        """
        digest = check_digest(request.match_info["digest"])
        with self._blobs.open(digest) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            asked = _asked_range(request, size_bytes)
            first, end = asked or (0, size_bytes)
            response = web.StreamResponse(status=206 if asked else 200)
            response.content_type = "application/octet-stream"
            response.content_length = end - first
            response.headers["Accept-Ranges"] = "bytes"
            if asked:
                response.headers["Content-Range"] = f"bytes {first}-{end - 1}/{size_bytes}"
            await response.prepare(request)
            try:
                await self._send(file.fileno(), first, end, response)
            except (ConnectionResetError, OSError):  # whoever reads is gone, or the disk fails in the middle
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def _send(self, file: int, first: int, end: int, response: web.StreamResponse) -> None:
        bandwidth = self._context.bandwidth
        while first < end:
            step = min(bandwidth.piece_bytes(), end - first)
            piece = await in_thread(partial(os.pread, file, step, first), self._blobs.folder)
            if not piece:
                raise OSError("the blob was cut off while it was sent")
            await bandwidth.take(len(piece))
            await response.write(piece)
            first += len(piece)

    async def read_chunks(self, request: web.Request) -> web.Response:
        """See the route table."""
        digest = check_digest(request.match_info["digest"])
        chunks = await in_thread(lambda: self._blobs.chunk_list(digest), self._blobs.folder)
        return web.Response(body=chunks.digests, content_type="application/octet-stream")

    async def write_blob(self, request: web.Request) -> wire.BlobReceipt:
        """See the route table. With Content-Range it goes on with what was uploaded before, and keeps what arrives."""
        digest = check_digest(request.match_info["digest"])
        part, chunks = _part(request), paced(request.content)
        if part is None:
            blob = await self._blobs.write(digest, chunks, request.content_length)
        else:
            first, size_bytes = part
            found = await self._blobs.write_part(digest, first, chunks, size_bytes)
            if found is None:
                return wire.BlobReceipt(digest=digest, size_bytes=self._blobs.received(digest))
            blob = found
        return wire.BlobReceipt(digest=blob.digest, size_bytes=blob.size_bytes)


def _asked_range(request: web.Request, size_bytes: int) -> tuple[int, int] | None:
    """First byte and end of the range that is asked for; None for all of it, and for ranges of another kind."""
    found = _RANGE.fullmatch(request.headers.get("Range", ""))
    if found is None:
        return None
    first = int(found[1])
    end = min(int(found[2]) + 1, size_bytes) if found[2] else size_bytes
    if first >= size_bytes or end <= first:
        raise web.HTTPRequestRangeNotSatisfiable
    return first, end


def _part(request: web.Request) -> tuple[int, int] | None:
    """The first byte of an upload's part, and the size of the whole; None where all of it comes."""
    text = request.headers.get("Content-Range")
    if text is None:
        return None
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:
        raise InvalidError(f"{text[:80]!r} is no Content-Range of one part", code="range-invalid")
    first, last, size_bytes = (int(number) for number in found.groups())
    if not first <= last < size_bytes or request.content_length not in (None, last + 1 - first):
        raise InvalidError(f"{text!r} contradicts itself or the body's length", code="range-invalid")
    return first, size_bytes
