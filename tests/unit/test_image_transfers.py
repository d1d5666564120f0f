"""One transfer for all who wait for an image, within the room that there is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from image_peers import (
    BLOB,
    CONTENT,
    ENTRY,
    SMALL,
    Peer,
    Start,
    assert_stored,
    blob_of,
    entry_of,
    leftovers,
    part,
    serves,
    stalls,
    waits_for_release,
)

from hostagent.drivers.images import ImageCache
from vdc.images.blobs import BlobStore
from vdc.images.chunks import CHUNK_BYTES
from vdc.model.errors import RefusedError, UnavailableError


async def test_zeros_do_not_travel_and_take_no_room(
    start_peer: Start, http_session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    sparse = SMALL.ljust(5 * CHUNK_BYTES, b"\0") + SMALL
    peer = await start_peer(serves, sparse)
    blob_store = BlobStore(tmp_path, free_bytes=lambda _: 2 * CHUNK_BYTES)
    await ImageCache(blob_store, lambda: http_session).ensure(entry_of(sparse), [peer.url])
    assert_stored(blob_store, sparse)
    assert peer.sent == CHUNK_BYTES + len(SMALL)
    assert blob_store.path(blob_of(sparse).digest).stat().st_blocks * 512 <= 2 * CHUNK_BYTES


async def test_an_image_that_does_not_fit_is_refused_before_anything_is_sent(
    start_peer: Start, http_session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    peer = await start_peer(serves)
    blob_store = BlobStore(tmp_path, reserve_bytes=100, free_bytes=lambda _: len(CONTENT) + 99)
    with pytest.raises(RefusedError) as refusal:
        await ImageCache(blob_store, lambda: http_session).ensure(ENTRY, [peer.url])
    assert refusal.value.code == "no-space"
    assert peer.ranges == [] and leftovers(blob_store) == []


async def test_two_images_that_do_not_fit_together_do_not_fill_the_disk(
    start_peer: Start, http_session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    other = CONTENT[::-1]
    peer = await start_peer(waits_for_release, CONTENT, other)
    blob_store = BlobStore(tmp_path, free_bytes=lambda _: len(CONTENT) + 1000)
    image_cache = ImageCache(blob_store, lambda: http_session)
    first = asyncio.create_task(image_cache.ensure(ENTRY, [peer.url]))
    await peer.asked.wait()
    with pytest.raises(RefusedError):
        await image_cache.ensure(entry_of(other), [peer.url])
    first.cancel()
    await asyncio.wait({first})
    assert leftovers(blob_store) == []


async def test_a_disk_that_fills_up_meanwhile_is_given_back(
    start_peer: Start, http_session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    free = [2 * len(CONTENT)]

    async def others_write(peer: Peer, request: web.Request) -> web.StreamResponse:
        if peer.sent:
            free[0] = 0
        return part(peer, request)

    peer = await start_peer(others_write)
    blob_store = BlobStore(tmp_path, free_bytes=lambda _: free[0])
    with pytest.raises(RefusedError) as refusal:
        await ImageCache(blob_store, lambda: http_session).ensure(ENTRY, [peer.url])
    assert refusal.value.code == "no-space"
    assert leftovers(blob_store) == [] and not blob_store.promised


async def test_guests_that_wait_for_the_same_blob_share_one_transfer(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    peer = await start_peer(waits_for_release)
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(image_cache.ensure(ENTRY, [peer.url]))
        await peer.asked.wait()
        peer.release.set()
    assert_stored(blob_store)
    assert peer.sent == len(CONTENT)


async def test_a_cancelled_waiter_leaves_the_others_theirs(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    peer = await start_peer(waits_for_release)
    first = asyncio.create_task(image_cache.ensure(ENTRY, [peer.url]))
    await peer.asked.wait()
    second = asyncio.create_task(image_cache.ensure(ENTRY, [peer.url]))
    await until_waiting(image_cache, 2)
    first.cancel()
    await asyncio.wait({first})
    peer.release.set()
    await second
    assert first.cancelled()
    assert_stored(blob_store)
    assert peer.sent == len(CONTENT)


async def test_the_last_waiter_to_go_ends_the_transfer(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    peer = await start_peer(stalls)
    waiter = asyncio.create_task(image_cache.ensure(ENTRY, [peer.url]))
    await peer.asked.wait()
    waiter.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait({waiter})
    assert not blob_store.has(BLOB.digest)
    assert leftovers(blob_store) == [] and not blob_store.promised
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("image-")]
    peer.behave = serves
    await image_cache.ensure(ENTRY, [peer.url])
    assert_stored(blob_store)


async def test_nobody_joins_a_transfer_that_is_being_ended(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    peer = await start_peer(stalls)
    waiter = asyncio.create_task(image_cache.ensure(ENTRY, [peer.url]))
    await peer.asked.wait()
    await until_waiting(image_cache, 1)
    peer.behave = serves
    waiter.cancel()
    await asyncio.sleep(0)  # the waiter has told the transfer to end, which takes the transfer a while
    assert not waiter.done()
    await image_cache.ensure(ENTRY, [peer.url])
    assert_stored(blob_store)


async def test_a_waiter_that_knows_another_peer_does_not_fail_with_the_first(
    start_peer: Start, image_cache: ImageCache, blob_store: BlobStore
) -> None:
    async def waits_then_has_nothing(peer: Peer, request: web.Request) -> web.StreamResponse:
        await peer.release.wait()
        raise web.HTTPNotFound

    empty, full = await start_peer(waits_then_has_nothing), await start_peer(serves)
    first = asyncio.create_task(image_cache.ensure(ENTRY, [empty.url]))
    await empty.asked.wait()
    second = asyncio.create_task(image_cache.ensure(ENTRY, [full.url]))
    await until_waiting(image_cache, 2)
    empty.release.set()
    await second
    with pytest.raises(UnavailableError):
        await first
    assert_stored(blob_store)


async def until_waiting(image_cache: ImageCache, waiters: int) -> None:
    """Until so many wait for the blob."""
    async with asyncio.timeout(30):
        while sum(transfer.waiters for transfer in image_cache._transfers.values()) < waiters:
            await asyncio.sleep(0.001)
