"""Images come from peers in chunks, whole and verified, whatever a peer does. The peers are real HTTP servers."""

from __future__ import annotations

import asyncio

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


async def test_every_file_of_an_image_is_fetched(start_peer: Start, image_cache: ImageCache) -> None:
    peer = await start_peer(serves, CONTENT, b"kernel", SMALL)
    paths = await image_cache.ensure(entry_of(CONTENT, b"kernel", SMALL), [peer.url])
    assert paths.disk is not None and paths.disk.read_bytes() == CONTENT
    assert paths.kernel is not None and paths.kernel.read_bytes() == b"kernel"
    assert paths.initrd is not None and paths.initrd.read_bytes() == SMALL


async def test_an_empty_file_is_not_asked_for(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    await image_cache.ensure(entry_of(b""), [])
    assert blob_store.path(blob_of(b"").digest).read_bytes() == b""


async def test_an_image_is_fetched_once_and_then_found(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    peer = await start_peer(serves)
    entry = ENTRY.with_(image=Image(kind=ImageKind.DISK, disk=BLOB, kernel=BLOB))
    assert not image_cache.is_present(entry.image)
    for _ in range(2):
        path = blob_store.path(BLOB.digest)
        assert await image_cache.ensure(entry, [peer.url]) == ImagePaths(disk=path, kernel=path)
    assert_stored(blob_store)
    assert image_cache.is_present(entry.image)
    assert peer.sent == len(CONTENT)


async def test_several_peers_share_the_work(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    peers = [await start_peer(serves) for _ in range(3)]
    await image_cache.ensure(ENTRY, [peer.url for peer in peers])
    assert_stored(blob_store)
    assert all(peer.sent for peer in peers)
    assert sum(peer.sent for peer in peers) == len(CONTENT)


@pytest.mark.parametrize("bad", [has_nothing, breaks_off, ignores_ranges, sends_the_wrong_range])
async def test_what_one_peer_does_not_send_comes_from_the_other(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore, bad: Handler
) -> None:
    one, other = await start_peer(bad), await start_peer(serves)
    await image_cache.ensure(ENTRY, [one.url, other.url])
    assert_stored(blob_store)
    assert other.sent == len(CONTENT)


async def test_a_peer_that_is_down_is_passed_over(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    full = await start_peer(serves)
    await image_cache.ensure(ENTRY, ["http://127.0.0.1:1", full.url])
    assert_stored(blob_store)


async def test_a_peer_that_stalls_is_left(
    start_peer: Start, http_session: aiohttp.ClientSession, blob_store: BlobStore
) -> None:
    one, other = await start_peer(stalls), await start_peer(serves)
    async with asyncio.timeout(30):
        image_cache = ImageCache(blob_store, lambda: http_session, patience=Patience(stall_s=0.1))
        await image_cache.ensure(ENTRY, [one.url, other.url])
    assert_stored(blob_store)


async def test_what_a_peer_sends_beyond_the_range_is_not_used(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    peer = await start_peer(sends_too_much)
    await image_cache.ensure(ENTRY, [peer.url])
    assert_stored(blob_store)


@pytest.mark.parametrize("bad", [sends_damaged, damages_the_last])
async def test_a_peer_that_lies_is_found_out_and_only_its_chunks_come_again(
    start_peer: Start,
    image_cache: ImageCache,
    blob_store: BlobStore,
    bad: Handler,
    caplog: pytest.LogCaptureFixture,
) -> None:
    liar, honest = await start_peer(bad), await start_peer(waits_for_release)
    fetching = asyncio.create_task(image_cache.ensure(ENTRY, [liar.url, honest.url]))
    await honest.asked.wait()
    while not liar.sent:
        await asyncio.sleep(0.001)
    honest.release.set()
    await fetching
    assert_stored(blob_store)
    assert honest.sent <= len(CONTENT)
    if bad is sends_damaged or any(CONTENT and len(CONTENT) in asked for asked in liar.ranges):
        assert liar.url in caplog.text
    assert honest.url not in caplog.text


async def test_damage_everywhere_is_told_and_leaves_nothing(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    peer = await start_peer(sends_damaged)
    with pytest.raises(UnavailableError, match="something else") as error:
        await image_cache.ensure(ENTRY, [peer.url])
    assert error.value.code == "image-unavailable"
    assert not blob_store.has(BLOB.digest)
    assert leftovers(blob_store) == []


async def test_a_wrong_chunk_list_in_the_record_is_told_and_leaves_nothing(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    other = CONTENT[:-1] + b"?"
    peer = await start_peer(sends_damaged)
    peer.behave = lambda peer, request: _part_of(peer, request, other)
    peer.lists[BLOB.digest] = chunks_of(other).digests
    with pytest.raises(VdcError, match="not its own"):
        await image_cache.ensure(entry_of(CONTENT, chunks=chunks_of(other)), [peer.url])
    assert not blob_store.has(BLOB.digest) and leftovers(blob_store) == []


async def _part_of(peer: Peer, request: web.Request, content: bytes) -> web.StreamResponse:
    return part(peer, request, content)


@pytest.mark.parametrize("wrong", [b"", b"x" * 32, b"x" * 32 * CHUNKS, b"x" * 10_000])
async def test_another_chunk_list_than_the_records_is_not_used(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore, wrong: bytes
) -> None:
    liar, honest = await start_peer(has_nothing), await start_peer(serves)
    liar.lists[BLOB.digest] = wrong
    with pytest.raises(UnavailableError, match=liar.url):
        await image_cache.ensure(ENTRY, [liar.url])
    await image_cache.ensure(ENTRY, [liar.url, honest.url])
    assert_stored(blob_store)


async def test_every_peers_reason_is_told(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    peer = await start_peer(has_nothing)
    with pytest.raises(UnavailableError, match=rf"{peer.url}: it answered 404") as error:
        await image_cache.ensure(ENTRY, [peer.url, "http://127.0.0.1:1"])
    assert "http://127.0.0.1:1: " in str(error.value)
    assert leftovers(blob_store) == []


async def test_no_peer_at_all_is_told(image_cache: ImageCache) -> None:
    with pytest.raises(UnavailableError, match="none holds it"):
        await image_cache.ensure(ENTRY, [])


async def test_what_came_before_an_interruption_does_not_come_again(
    start_peer: Start, http_session: aiohttp.ClientSession, blob_store: BlobStore
) -> None:
    peer = await start_peer(breaks_off_after_a_chunk)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await ImageCache(blob_store, lambda: http_session).ensure(ENTRY, [peer.url])
    assert len(leftovers(blob_store)) == 1
    peer.behave, peer.sent = serves, 0
    await ImageCache(blob_store, lambda: http_session).ensure(
        ENTRY, [peer.url]
    )  # as the agent after it would
    assert_stored(blob_store)
    assert peer.sent == len(CONTENT) - CHUNK_BYTES


async def test_what_was_damaged_meanwhile_comes_again(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    peer = await start_peer(breaks_off_after_a_chunk)
    with pytest.raises(UnavailableError):
        await image_cache.ensure(ENTRY, [peer.url])
    with blob_store.fetch_path(BLOB.digest).open("r+b") as file:
        file.write(b"!")
    peer.behave, peer.sent = serves, 0
    await image_cache.ensure(ENTRY, [peer.url])
    assert_stored(blob_store)
    assert peer.sent == len(CONTENT)
