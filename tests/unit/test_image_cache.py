"""Images come from peers in chunks, whole and verified, whatever a peer does. The peers are real HTTP servers."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hostagent.drivers.images import ImageCache, ImagePaths
from hostagent.drivers.images.fetch import Patience
from vdc.images.blobs import BlobStore
from vdc.images.chunks import CHUNK_BYTES, ChunkHasher, ChunkList
from vdc.model.errors import RefusedError, UnavailableError, VdcError
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


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
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


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


@pytest.fixture
def cache(store: BlobStore, session: aiohttp.ClientSession) -> ImageCache:
    return ImageCache(store, lambda: session)


Start = Callable[..., Awaitable[Peer]]


def leftovers(store: BlobStore) -> list[str]:
    """Everything in the store's folder that is neither a blob nor its chunk list."""
    return [path.name for path in store.folder.glob("*") if path.name.startswith(".")]


def assert_stored(store: BlobStore, content: bytes = CONTENT) -> None:
    blob = blob_of(content)
    assert store.path(blob.digest).read_bytes() == content
    assert store.chunk_list(blob.digest) == chunks_of(content)
    assert leftovers(store) == [] and not store.promised


async def test_every_file_of_an_image_is_fetched(start: Start, cache: ImageCache) -> None:
    peer = await start(serves, CONTENT, b"kernel", SMALL)
    paths = await cache.ensure(entry_of(CONTENT, b"kernel", SMALL), [peer.url])
    assert paths.disk is not None and paths.disk.read_bytes() == CONTENT
    assert paths.kernel is not None and paths.kernel.read_bytes() == b"kernel"
    assert paths.initrd is not None and paths.initrd.read_bytes() == SMALL


async def test_an_empty_file_is_not_asked_for(start: Start, cache: ImageCache, store: BlobStore) -> None:
    await cache.ensure(entry_of(b""), [])
    assert store.path(blob_of(b"").digest).read_bytes() == b""


async def test_an_image_is_fetched_once_and_then_found(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(serves)
    entry = ENTRY.with_(image=Image(kind=ImageKind.DISK, disk=BLOB, kernel=BLOB))
    assert not cache.is_present(entry.image)
    for _ in range(2):
        path = store.path(BLOB.digest)
        assert await cache.ensure(entry, [peer.url]) == ImagePaths(disk=path, kernel=path)
    assert_stored(store)
    assert cache.is_present(entry.image)
    assert peer.sent == len(CONTENT)


async def test_several_peers_share_the_work(start: Start, cache: ImageCache, store: BlobStore) -> None:
    peers = [await start(serves) for _ in range(3)]
    await cache.ensure(ENTRY, [peer.url for peer in peers])
    assert_stored(store)
    assert all(peer.sent for peer in peers)
    assert sum(peer.sent for peer in peers) == len(CONTENT)


@pytest.mark.parametrize("bad", [has_nothing, breaks_off, ignores_ranges, sends_the_wrong_range])
async def test_what_one_peer_does_not_send_comes_from_the_other(
    start: Start, cache: ImageCache, store: BlobStore, bad: Handler
) -> None:
    one, other = await start(bad), await start(serves)
    await cache.ensure(ENTRY, [one.url, other.url])
    assert_stored(store)
    assert other.sent == len(CONTENT)


async def test_a_peer_that_is_down_is_passed_over(start: Start, cache: ImageCache, store: BlobStore) -> None:
    full = await start(serves)
    await cache.ensure(ENTRY, ["http://127.0.0.1:1", full.url])
    assert_stored(store)


async def test_a_peer_that_stalls_is_left(
    start: Start, session: aiohttp.ClientSession, store: BlobStore
) -> None:
    one, other = await start(stalls), await start(serves)
    async with asyncio.timeout(5):
        cache = ImageCache(store, lambda: session, patience=Patience(stall_s=0.1))
        await cache.ensure(ENTRY, [one.url, other.url])
    assert_stored(store)


async def test_what_a_peer_sends_beyond_the_range_is_not_used(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(sends_too_much)
    await cache.ensure(ENTRY, [peer.url])
    assert_stored(store)


@pytest.mark.parametrize("bad", [sends_damaged, damages_the_last])
async def test_a_peer_that_lies_is_found_out_and_only_its_chunks_come_again(
    start: Start, cache: ImageCache, store: BlobStore, bad: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    liar, honest = await start(bad), await start(waits_for_release)
    fetching = asyncio.create_task(cache.ensure(ENTRY, [liar.url, honest.url]))
    await honest.asked.wait()
    while not liar.sent:
        await asyncio.sleep(0.001)
    honest.release.set()
    await fetching
    assert_stored(store)
    assert honest.sent <= len(CONTENT)
    if bad is sends_damaged or any(CONTENT and len(CONTENT) in asked for asked in liar.ranges):
        assert liar.url in caplog.text
    assert honest.url not in caplog.text


async def test_damage_everywhere_is_told_and_leaves_nothing(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(sends_damaged)
    with pytest.raises(UnavailableError, match="something else") as error:
        await cache.ensure(ENTRY, [peer.url])
    assert error.value.code == "image-unavailable"
    assert not store.has(BLOB.digest)
    assert leftovers(store) == []


async def test_a_wrong_chunk_list_in_the_record_is_told_and_leaves_nothing(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    other = CONTENT[:-1] + b"?"
    peer = await start(sends_damaged)
    peer.behave = lambda peer, request: _part_of(peer, request, other)
    peer.lists[BLOB.digest] = chunks_of(other).digests
    with pytest.raises(VdcError, match="not its own"):
        await cache.ensure(entry_of(CONTENT, chunks=chunks_of(other)), [peer.url])
    assert not store.has(BLOB.digest) and leftovers(store) == []


async def _part_of(peer: Peer, request: web.Request, content: bytes) -> web.StreamResponse:
    return part(peer, request, content)


@pytest.mark.parametrize("wrong", [b"", b"x" * 32, b"x" * 32 * CHUNKS, b"x" * 10_000])
async def test_another_chunk_list_than_the_records_is_not_used(
    start: Start, cache: ImageCache, store: BlobStore, wrong: bytes
) -> None:
    liar, honest = await start(has_nothing), await start(serves)
    liar.lists[BLOB.digest] = wrong
    with pytest.raises(UnavailableError, match=liar.url):
        await cache.ensure(ENTRY, [liar.url])
    await cache.ensure(ENTRY, [liar.url, honest.url])
    assert_stored(store)


async def test_every_peers_reason_is_told(start: Start, cache: ImageCache, store: BlobStore) -> None:
    peer = await start(has_nothing)
    with pytest.raises(UnavailableError, match=rf"{peer.url}: it answered 404") as error:
        await cache.ensure(ENTRY, [peer.url, "http://127.0.0.1:1"])
    assert "http://127.0.0.1:1: " in str(error.value)
    assert leftovers(store) == []


async def test_no_peer_at_all_is_told(cache: ImageCache) -> None:
    with pytest.raises(UnavailableError, match="none holds it"):
        await cache.ensure(ENTRY, [])


async def test_what_came_before_an_interruption_does_not_come_again(
    start: Start, session: aiohttp.ClientSession, store: BlobStore
) -> None:
    peer = await start(breaks_off_after_a_chunk)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await ImageCache(store, lambda: session).ensure(ENTRY, [peer.url])
    assert len(leftovers(store)) == 1
    peer.behave, peer.sent = serves, 0
    await ImageCache(store, lambda: session).ensure(ENTRY, [peer.url])  # as the agent after it would
    assert_stored(store)
    assert peer.sent == len(CONTENT) - CHUNK_BYTES


async def test_what_was_damaged_meanwhile_comes_again(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(breaks_off_after_a_chunk)
    with pytest.raises(UnavailableError):
        await cache.ensure(ENTRY, [peer.url])
    with store.fetch_path(BLOB.digest).open("r+b") as file:
        file.write(b"!")
    peer.behave, peer.sent = serves, 0
    await cache.ensure(ENTRY, [peer.url])
    assert_stored(store)
    assert peer.sent == len(CONTENT)


async def test_zeros_do_not_travel_and_take_no_room(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    sparse = SMALL.ljust(5 * CHUNK_BYTES, b"\0") + SMALL
    peer = await start(serves, sparse)
    store = BlobStore(tmp_path, free_bytes=lambda _: 2 * CHUNK_BYTES)
    await ImageCache(store, lambda: session).ensure(entry_of(sparse), [peer.url])
    assert_stored(store, sparse)
    assert peer.sent == CHUNK_BYTES + len(SMALL)
    assert store.path(blob_of(sparse).digest).stat().st_blocks * 512 <= 2 * CHUNK_BYTES


async def test_an_image_that_does_not_fit_is_refused_before_anything_is_sent(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    peer = await start(serves)
    store = BlobStore(tmp_path, reserve_bytes=100, free_bytes=lambda _: len(CONTENT) + 99)
    with pytest.raises(RefusedError) as refusal:
        await ImageCache(store, lambda: session).ensure(ENTRY, [peer.url])
    assert refusal.value.code == "no-space"
    assert peer.ranges == [] and leftovers(store) == []


async def test_two_images_that_do_not_fit_together_do_not_fill_the_disk(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    other = CONTENT[::-1]
    peer = await start(waits_for_release, CONTENT, other)
    store = BlobStore(tmp_path, free_bytes=lambda _: len(CONTENT) + 1000)
    cache = ImageCache(store, lambda: session)
    first = asyncio.create_task(cache.ensure(ENTRY, [peer.url]))
    await peer.asked.wait()
    with pytest.raises(RefusedError):
        await cache.ensure(entry_of(other), [peer.url])
    first.cancel()
    await asyncio.wait({first})
    assert leftovers(store) == []


async def test_a_disk_that_fills_up_meanwhile_is_given_back(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    free = [2 * len(CONTENT)]

    async def others_write(peer: Peer, request: web.Request) -> web.StreamResponse:
        if peer.sent:
            free[0] = 0
        return part(peer, request)

    peer = await start(others_write)
    store = BlobStore(tmp_path, free_bytes=lambda _: free[0])
    with pytest.raises(RefusedError) as refusal:
        await ImageCache(store, lambda: session).ensure(ENTRY, [peer.url])
    assert refusal.value.code == "no-space"
    assert leftovers(store) == [] and not store.promised


async def test_guests_that_wait_for_the_same_blob_share_one_transfer(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(waits_for_release)
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(cache.ensure(ENTRY, [peer.url]))
        await peer.asked.wait()
        peer.release.set()
    assert_stored(store)
    assert peer.sent == len(CONTENT)


async def test_a_cancelled_waiter_leaves_the_others_theirs(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(waits_for_release)
    first = asyncio.create_task(cache.ensure(ENTRY, [peer.url]))
    await peer.asked.wait()
    second = asyncio.create_task(cache.ensure(ENTRY, [peer.url]))
    await until_waiting(cache, 2)
    first.cancel()
    await asyncio.wait({first})
    peer.release.set()
    await second
    assert first.cancelled()
    assert_stored(store)
    assert peer.sent == len(CONTENT)


async def test_the_last_waiter_to_go_ends_the_transfer(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(stalls)
    waiter = asyncio.create_task(cache.ensure(ENTRY, [peer.url]))
    await peer.asked.wait()
    waiter.cancel()
    async with asyncio.timeout(3):
        await asyncio.wait({waiter})
    assert not store.has(BLOB.digest)
    assert leftovers(store) == [] and not store.promised
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("image-")]
    peer.behave = serves
    await cache.ensure(ENTRY, [peer.url])
    assert_stored(store)


async def test_nobody_joins_a_transfer_that_is_being_ended(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(stalls)
    waiter = asyncio.create_task(cache.ensure(ENTRY, [peer.url]))
    await peer.asked.wait()
    await until_waiting(cache, 1)
    peer.behave = serves
    waiter.cancel()
    await asyncio.sleep(0)  # the waiter has told the transfer to end, which takes the transfer a while
    assert not waiter.done()
    await cache.ensure(ENTRY, [peer.url])
    assert_stored(store)


async def test_a_waiter_that_knows_another_peer_does_not_fail_with_the_first(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    async def waits_then_has_nothing(peer: Peer, request: web.Request) -> web.StreamResponse:
        await peer.release.wait()
        raise web.HTTPNotFound

    empty, full = await start(waits_then_has_nothing), await start(serves)
    first = asyncio.create_task(cache.ensure(ENTRY, [empty.url]))
    await empty.asked.wait()
    second = asyncio.create_task(cache.ensure(ENTRY, [full.url]))
    await until_waiting(cache, 2)
    empty.release.set()
    await second
    with pytest.raises(UnavailableError):
        await first
    assert_stored(store)


async def until_waiting(cache: ImageCache, waiters: int) -> None:
    """Until so many wait for the blob."""
    async with asyncio.timeout(5):
        while sum(transfer.waiters for transfer in cache._transfers.values()) < waiters:
            await asyncio.sleep(0.001)
