"""Hosts that images come from: real HTTP servers, which serve blobs as they are told to."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer

from vdc.images.blobs import BlobStore
from vdc.images.chunks import CHUNK_BYTES, ChunkHasher, ChunkList
from vdc.model.image import Blob, Image, ImageEntry, ImageKind

CHUNKS = 7
CONTENT = random.Random(1).randbytes((CHUNKS - 1) * CHUNK_BYTES + 100_000)
SMALL = bytes(range(256)) * 100


def blob_of(content: bytes) -> Blob:
    return Blob(digest="sha256:" + hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def chunks_of(content: bytes) -> ChunkList:
    hasher = ChunkHasher()
    hasher.update(content)
    return hasher.finish()


def entry_of(*contents: bytes, chunks: ChunkList | None = None) -> ImageEntry:
    parts = dict(zip(("disk", "kernel", "initrd"), map(blob_of, contents), strict=False))
    lists = {blob_of(content).digest: (chunks or chunks_of(content)).digest for content in contents}
    return ImageEntry(digest="sha256:" + "a" * 64, image=Image(kind=ImageKind.DISK, **parts), chunks=lists)


BLOB = blob_of(CONTENT)
ENTRY = entry_of(CONTENT)
Handler = Callable[["Peer", web.Request], Awaitable[web.StreamResponse]]


class Peer:
    """One host's API, as far as blobs go; `behave` is what it does with a request."""

    def __init__(self, behave: Handler, contents: tuple[bytes, ...]) -> None:
        self.behave = behave
        self.contents = {blob_of(content).digest: content for content in contents}
        self.lists = {digest: chunks_of(content).digests for digest, content in self.contents.items()}
        self.ranges: list[range] = []
        self.asked = asyncio.Event()
        self.release = asyncio.Event()
        self.sent = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked = request.http_range
        self.ranges.append(range(asked.start, asked.stop))
        self.asked.set()
        return await self.behave(self, request)

    async def list(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        if digest not in self.lists:
            raise web.HTTPNotFound
        return web.Response(body=self.lists[digest])

    def content(self, request: web.Request) -> bytes:
        return self.contents[request.match_info["digest"]]


def part(peer: Peer, request: web.Request, content: bytes | None = None) -> web.Response:
    content = peer.content(request) if content is None else content
    first, end = request.http_range.start, request.http_range.stop
    peer.sent += end - first
    span = f"bytes {first}-{end - 1}/{len(content)}"
    return web.Response(body=content[first:end], status=206, headers={"Content-Range": span})


async def serves(peer: Peer, request: web.Request) -> web.StreamResponse:
    return part(peer, request)


async def ignores_ranges(peer: Peer, request: web.Request) -> web.StreamResponse:
    return web.Response(body=peer.content(request))


async def has_nothing(_: Peer, request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


async def sends_damaged(peer: Peer, request: web.Request) -> web.StreamResponse:
    return part(peer, request, bytes(len(CONTENT)))


async def damages_the_last(peer: Peer, request: web.Request) -> web.StreamResponse:
    return part(peer, request, CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))


async def sends_the_wrong_range(peer: Peer, request: web.Request) -> web.StreamResponse:
    body = CONTENT[1 : CHUNK_BYTES + 1]
    return web.Response(body=body, status=206, headers={"Content-Range": f"bytes 1-{CHUNK_BYTES}/*"})


async def sends_too_much(peer: Peer, request: web.Request) -> web.StreamResponse:
    first, end = request.http_range.start, request.http_range.stop
    span = f"bytes {first}-{end - 1}/{len(CONTENT)}"
    return web.Response(body=CONTENT[first:] + b"more", status=206, headers={"Content-Range": span})


async def waits_for_release(peer: Peer, request: web.Request) -> web.StreamResponse:
    await peer.release.wait()
    return part(peer, request)


async def begin(peer: Peer, request: web.Request, size_bytes: int) -> web.StreamResponse:
    """Send so much of what is asked for and leave the answer open."""
    first, end = request.http_range.start, request.http_range.stop
    response = web.StreamResponse(
        status=206, headers={"Content-Range": f"bytes {first}-{end - 1}/{len(CONTENT)}"}
    )
    response.content_length = end - first
    await response.prepare(request)
    await response.write(peer.content(request)[first : first + size_bytes])
    return response


async def breaks_off(peer: Peer, request: web.Request) -> web.StreamResponse:
    response = await begin(peer, request, CHUNK_BYTES - 10)
    assert request.transport is not None
    request.transport.close()
    return response


async def breaks_off_after_a_chunk(peer: Peer, request: web.Request) -> web.StreamResponse:
    if peer.sent:
        raise web.HTTPServiceUnavailable
    peer.sent = CHUNK_BYTES
    response = await begin(peer, request, CHUNK_BYTES + 1000)
    assert request.transport is not None
    await asyncio.sleep(0.05)
    request.transport.close()
    return response


async def stalls(peer: Peer, request: web.Request) -> web.StreamResponse:
    response = await begin(peer, request, 1000)
    await peer.release.wait()
    return response


Start = Callable[..., Awaitable[Peer]]


@asynccontextmanager
async def image_peers() -> AsyncIterator[Start]:
    """Starts peers; whoever waits to be released is at the end."""
    servers: list[TestServer] = []
    peers: list[Peer] = []

    async def start_one(behave: Handler, *contents: bytes) -> Peer:
        peer = Peer(behave, contents or (CONTENT,))
        application = web.Application()
        application.router.add_get("/v1/blobs/{digest}", peer.handle)
        application.router.add_get("/v1/blobs/{digest}/chunks", peer.list)
        server = TestServer(application)
        await server.start_server()
        peer.url = str(server.make_url("/"))
        servers.append(server)
        peers.append(peer)
        return peer

    yield start_one
    for peer in peers:
        peer.release.set()
    for server in servers:
        await server.close()


def leftovers(store: BlobStore) -> list[str]:
    """Everything in the store's folder that is neither a blob nor its chunk list."""
    return [path.name for path in store.folder.glob("*") if path.name.startswith(".")]


def assert_stored(store: BlobStore, content: bytes = CONTENT) -> None:
    blob = blob_of(content)
    assert store.path(blob.digest).read_bytes() == content
    assert store.chunk_list(blob.digest) == chunks_of(content)
    assert leftovers(store) == [] and not store.promised
