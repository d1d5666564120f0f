"""Images come from peers, whole and verified, whatever a peer does. The peers are real HTTP servers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hostagent.drivers.images import ImageCache, ImagePaths
from vdc.images.blobs import BlobStore
from vdc.model.errors import RefusedError, UnavailableError
from vdc.model.image import Blob, Image, ImageKind

CONTENT = bytes(range(256)) * 2048  # 512 KiB, more than one network read
HALF = len(CONTENT) // 2


def blob_of(content: bytes) -> Blob:
    return Blob(digest="sha256:" + hashlib.sha256(content).hexdigest(), size_bytes=len(content))


BLOB = blob_of(CONTENT)
IMAGE = Image(kind=ImageKind.DISK, disk=BLOB)
Handler = Callable[["Peer", web.Request], Awaitable[web.StreamResponse]]


class Peer:
    """One host's API, as far as blobs go; `behave` is what it does with a request."""

    def __init__(self, behave: Handler) -> None:
        self.behave = behave
        self.ranges: list[str | None] = []
        self.asked = asyncio.Event()
        self.release = asyncio.Event()
        self.is_healed = False
        self.contents: dict[str, bytes] = {}
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.ranges.append(request.headers.get("Range"))
        self.asked.set()
        return await self.behave(self, request)


def start_of(request: web.Request) -> int:
    return request.http_range.start or 0


def answer_from(start: int, content: bytes = CONTENT) -> web.Response:
    if not start:
        return web.Response(body=content)
    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return web.Response(body=content[start:], status=206, headers={"Content-Range": span})


async def serves(_: Peer, request: web.Request) -> web.StreamResponse:
    return answer_from(start_of(request))


async def serves_everything(peer: Peer, request: web.Request) -> web.StreamResponse:
    return answer_from(0, peer.contents[request.match_info["digest"]])


async def ignores_ranges(_: Peer, request: web.Request) -> web.StreamResponse:
    return answer_from(0)


async def has_nothing(_: Peer, request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


async def sends_damaged(_: Peer, request: web.Request) -> web.StreamResponse:
    return answer_from(start_of(request), CONTENT[:-1] + b"?")


async def sends_the_wrong_range(_: Peer, request: web.Request) -> web.StreamResponse:
    return web.Response(
        body=CONTENT[1:], status=206, headers={"Content-Range": f"bytes 1-{len(CONTENT) - 1}/*"}
    )


async def sends_too_much(_: Peer, request: web.Request) -> web.StreamResponse:
    return web.Response(body=CONTENT + b"more")


async def waits_for_release(peer: Peer, request: web.Request) -> web.StreamResponse:
    await peer.release.wait()
    return answer_from(start_of(request))


async def half(request: web.Request) -> web.StreamResponse:
    """Send the first half and leave the answer open."""
    response = web.StreamResponse()
    response.content_length = len(CONTENT)
    await response.prepare(request)
    await response.write(CONTENT[:HALF])
    return response


async def breaks_off(peer: Peer, request: web.Request) -> web.StreamResponse:
    if start_of(request):
        return answer_from(start_of(request)) if peer.is_healed else await has_nothing(peer, request)
    response = await half(request)
    assert request.transport is not None
    request.transport.close()
    return response


async def breaks_off_once(peer: Peer, request: web.Request) -> web.StreamResponse:
    if start_of(request):
        return answer_from(start_of(request))
    return await breaks_off(peer, request)


async def stalls(peer: Peer, request: web.Request) -> web.StreamResponse:
    response = await half(request)
    await peer.release.wait()
    return response


@pytest.fixture
async def start() -> AsyncIterator[Callable[[Handler], Awaitable[Peer]]]:
    servers: list[TestServer] = []
    peers: list[Peer] = []

    async def start_one(behave: Handler) -> Peer:
        peer = Peer(behave)
        application = web.Application()
        application.router.add_get("/v1/blobs/{digest}", peer.handle)
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


Start = Callable[[Handler], Awaitable[Peer]]


def leftovers(store: BlobStore) -> list[str]:
    """Everything in the store's folder that is no blob."""
    return [path.name for path in store.folder.glob("*") if len(path.name) != 64]


def assert_stored(store: BlobStore) -> None:
    assert store.path(BLOB.digest).read_bytes() == CONTENT
    assert leftovers(store) == []


async def test_every_file_of_an_image_is_fetched(start: Start, cache: ImageCache) -> None:
    peer = await start(serves_everything)
    kernel, initrd = blob_of(b"kernel"), blob_of(b"initrd")
    peer.contents = {kernel.digest: b"kernel", initrd.digest: b"initrd"}
    paths = await cache.ensure(Image(kind=ImageKind.KERNEL, kernel=kernel, initrd=initrd), [peer.url])
    assert paths.disk is None
    assert paths.kernel is not None and paths.kernel.read_bytes() == b"kernel"
    assert paths.initrd is not None and paths.initrd.read_bytes() == b"initrd"


async def test_an_image_is_fetched_once_and_then_found(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(serves)
    image = Image(kind=ImageKind.DISK, disk=BLOB, kernel=BLOB)
    assert not cache.is_present(image)
    for _ in range(2):
        path = store.path(BLOB.digest)
        assert await cache.ensure(image, [peer.url]) == ImagePaths(disk=path, kernel=path)
    assert_stored(store)
    assert cache.is_present(image)
    assert peer.ranges == [None]


async def test_a_peer_without_the_blob_is_passed_over(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    empty, full = await start(has_nothing), await start(serves)
    await cache.ensure(IMAGE, [empty.url, full.url])
    assert_stored(store)
    assert empty.ranges == [None]


async def test_a_peer_that_is_down_is_passed_over(start: Start, cache: ImageCache, store: BlobStore) -> None:
    full = await start(serves)
    await cache.ensure(IMAGE, ["http://127.0.0.1:1", full.url])
    assert_stored(store)


@pytest.mark.parametrize("second", [serves, ignores_ranges])
async def test_the_next_peer_is_asked_for_the_rest(
    start: Start, cache: ImageCache, store: BlobStore, second: Handler
) -> None:
    first, other = await start(breaks_off), await start(second)
    await cache.ensure(IMAGE, [first.url, other.url])
    assert_stored(store)
    (asked,) = other.ranges
    assert asked is not None
    assert 0 < int(asked.removeprefix("bytes=").removesuffix("-")) <= HALF


async def test_a_single_peer_that_breaks_off_is_asked_again(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(breaks_off_once)
    await cache.ensure(IMAGE, [peer.url])
    assert_stored(store)
    assert len(peer.ranges) == 2


async def test_a_peer_that_stalls_is_left(
    start: Start, session: aiohttp.ClientSession, store: BlobStore
) -> None:
    first, second = await start(stalls), await start(serves)
    async with asyncio.timeout(30):
        await ImageCache(store, lambda: session, stall_s=0.1).ensure(IMAGE, [first.url, second.url])
    assert_stored(store)
    assert second.ranges == [f"bytes={HALF}-"]


async def test_another_range_than_asked_for_is_not_used(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    wrong, right = await start(sends_the_wrong_range), await start(serves)
    await cache.ensure(IMAGE, [wrong.url, right.url])
    assert_stored(store)
    assert (wrong.ranges, right.ranges) == ([None], [None])


@pytest.mark.parametrize("bad", [sends_damaged, sends_too_much])
async def test_damaged_content_is_not_stored_and_the_next_peer_is_asked(
    start: Start, cache: ImageCache, store: BlobStore, bad: Handler
) -> None:
    first, second = await start(bad), await start(serves)
    await cache.ensure(IMAGE, [first.url, second.url])
    assert_stored(store)


async def test_a_rest_from_a_bad_peer_spoils_no_good_one(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    good, bad = await start(breaks_off), await start(sends_damaged)
    good.is_healed = True
    await cache.ensure(IMAGE, [good.url, bad.url])
    assert_stored(store)


async def test_damage_everywhere_is_told_and_leaves_nothing(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(sends_damaged)
    with pytest.raises(UnavailableError, match="undamaged") as error:
        await cache.ensure(IMAGE, [peer.url])
    assert error.value.code == "image-unavailable"
    assert not store.has(BLOB.digest)
    assert leftovers(store) == []


async def test_every_peers_reason_is_told(start: Start, cache: ImageCache, store: BlobStore) -> None:
    peer = await start(has_nothing)
    with pytest.raises(UnavailableError, match=rf"{peer.url}: it answered 404") as error:
        await cache.ensure(IMAGE, [peer.url, "http://127.0.0.1:1"])
    assert "http://127.0.0.1:1: " in str(error.value)
    assert leftovers(store) == []


async def test_no_peer_at_all_is_told(cache: ImageCache) -> None:
    with pytest.raises(UnavailableError, match="none holds it"):
        await cache.ensure(IMAGE, [])


async def test_an_image_that_does_not_fit_is_refused_before_anything_is_sent(
    start: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    peer = await start(serves)
    store = BlobStore(tmp_path, free_bytes=lambda _: len(CONTENT) + 10)
    kernel = Blob(digest="sha256:" + "1" * 64, size_bytes=11)
    with pytest.raises(RefusedError) as refusal:
        await ImageCache(store, lambda: session).ensure(
            Image(kind=ImageKind.KERNEL, disk=BLOB, kernel=kernel), [peer.url]
        )
    assert refusal.value.code == "no-space"
    assert peer.ranges == []


async def test_guests_that_wait_for_the_same_blob_share_one_transfer(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(waits_for_release)
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(cache.ensure(IMAGE, [peer.url]))
        await peer.asked.wait()
        peer.release.set()
    assert_stored(store)
    assert peer.ranges == [None]


async def test_a_cancelled_waiter_leaves_the_others_theirs(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(waits_for_release)
    first = asyncio.create_task(cache.ensure(IMAGE, [peer.url]))
    await peer.asked.wait()
    second = asyncio.create_task(cache.ensure(IMAGE, [peer.url]))
    await until_waiting(cache, 2)
    first.cancel()
    await asyncio.wait({first})
    peer.release.set()
    await second
    assert first.cancelled()
    assert_stored(store)
    assert peer.ranges == [None]


async def test_the_last_waiter_to_go_ends_the_transfer(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(stalls)
    waiter = asyncio.create_task(cache.ensure(IMAGE, [peer.url]))
    await peer.asked.wait()
    waiter.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait({waiter})
    assert not store.has(BLOB.digest)
    assert leftovers(store) == []
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("image-")]
    peer.behave = serves
    await cache.ensure(IMAGE, [peer.url])
    assert_stored(store)


async def test_nobody_joins_a_transfer_that_is_being_ended(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    peer = await start(stalls)
    waiter = asyncio.create_task(cache.ensure(IMAGE, [peer.url]))
    await peer.asked.wait()
    await until_waiting(cache, 1)
    peer.behave = serves
    waiter.cancel()
    await asyncio.sleep(0)  # the waiter has told the transfer to end, which takes the transfer a while
    assert not waiter.done()
    await cache._fetched(BLOB, (peer.url,))
    assert_stored(store)


async def test_a_waiter_that_knows_another_peer_does_not_fail_with_the_first(
    start: Start, cache: ImageCache, store: BlobStore
) -> None:
    async def waits_then_has_nothing(peer: Peer, request: web.Request) -> web.StreamResponse:
        await peer.release.wait()
        raise web.HTTPNotFound

    empty, full = await start(waits_then_has_nothing), await start(serves)
    first = asyncio.create_task(cache.ensure(IMAGE, [empty.url]))
    await empty.asked.wait()
    second = asyncio.create_task(cache.ensure(IMAGE, [full.url]))
    await until_waiting(cache, 2)
    empty.release.set()
    await second
    with pytest.raises(UnavailableError):
        await first
    assert_stored(store)


async def until_waiting(cache: ImageCache, waiters: int) -> None:
    """Until so many wait for the blob (their first step goes through a worker thread)."""
    async with asyncio.timeout(30):
        while sum(transfer.waiters for transfer in cache._transfers.values()) < waiters:
            await asyncio.sleep(0.001)
