"""Images come from peers in chunks, whole and verified, whatever a peer does. The peers are real HTTP servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from image_peers import (
    BLOB,
    CHUNKS,
    CONTENT,
    ENTRY,
    SMALL,
    Handler,
    Peer,
    Start,
    assert_stored,
    blob_of,
    breaks_off,
    breaks_off_after_a_chunk,
    chunks_of,
    damages_the_last,
    entry_of,
    has_nothing,
    ignores_ranges,
    image_peers,
    leftovers,
    part,
    sends_damaged,
    sends_the_wrong_range,
    sends_too_much,
    serves,
    stalls,
    waits_for_release,
)

from hostagent.drivers.images import ImageCache, ImagePaths
from hostagent.drivers.images.fetch import Patience
from vdc.images.blobs import BlobStore
from vdc.images.chunks import CHUNK_BYTES
from vdc.model.errors import UnavailableError, VdcError
from vdc.model.image import Image, ImageKind


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with image_peers() as start_one:
        yield start_one


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
