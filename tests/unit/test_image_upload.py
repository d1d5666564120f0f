"""Uploads through the real API: gone on with after an interruption, by one import or by two at once."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from server_support import Served, served

from vdc.api.client import ApiClient
from vdc.api.upload import send_blob
from vdc.images.chunks import CHUNK_BYTES
from vdc.model.errors import ConflictError, InvalidError, RefusedError, VdcError
from vdc.model.image import Blob, Image, ImageKind

CONTENT = random.Random(3).randbytes(2 * CHUNK_BYTES + 12345)
BLOB = Blob(digest="sha256:" + hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT))
STEP = 256 * 1024


class InterruptedImportError(Exception):
    """The import was ended by Ctrl-C."""


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as found:
        yield found


@pytest.fixture
async def api(agent: Served) -> AsyncIterator[ApiClient]:
    async with ApiClient([f"unix://{agent.socket}"]) as client:
        yield client


Reader = Callable[[int], AsyncIterator[bytes]]


def reader(
    content: bytes = CONTENT, *, breaks_at: int | None = None, seen: list[int] | None = None
) -> Reader:
    async def read(first: int) -> AsyncIterator[bytes]:
        if seen is not None:
            seen.append(first)
        for place in range(first, len(content), STEP):
            if breaks_at is not None and place >= breaks_at:
                raise InterruptedImportError
            yield content[place : place + STEP]
            await asyncio.sleep(0)

    return read


def leftovers(agent: Served) -> list[str]:
    return [path.name for path in agent.context.blobs.folder.glob(".*")]


async def interrupt(api: ApiClient, at: int) -> None:
    with pytest.raises(Exception) as caught:
        await send_blob(api, BLOB, reader(breaks_at=at), patience_s=0)
    assert not isinstance(caught.value, AssertionError)


async def test_a_blob_goes_up_and_is_not_sent_again(agent: Served, api: ApiClient) -> None:
    seen: list[int] = []
    assert await send_blob(api, BLOB, reader(seen=seen))
    assert not await send_blob(api, BLOB, reader(seen=seen))
    assert seen == [0]
    assert agent.context.blobs.path(BLOB.digest).read_bytes() == CONTENT
    assert leftovers(agent) == [] and not agent.context.blobs.promised


async def test_an_empty_blob_goes_up(agent: Served, api: ApiClient) -> None:
    empty = Blob(digest="sha256:" + hashlib.sha256(b"").hexdigest(), size_bytes=0)
    assert await send_blob(api, empty, reader(b""))
    assert agent.context.blobs.has(empty.digest)


async def test_an_import_goes_on_where_the_one_before_it_was_interrupted(
    agent: Served, api: ApiClient
) -> None:
    await interrupt(api, 3 * 1024**2)
    async with asyncio.timeout(30):
        while agent.context.blobs.is_receiving(BLOB.digest):
            await asyncio.sleep(0.01)
    received = agent.context.blobs.received(BLOB.digest)
    assert 0 < received <= 3 * 1024**2
    seen: list[int] = []
    await send_blob(api, BLOB, reader(seen=seen))
    assert seen == [received]
    assert agent.context.blobs.path(BLOB.digest).read_bytes() == CONTENT
    assert leftovers(agent) == []


async def test_two_imports_of_the_same_blob_send_it_once(agent: Served, api: ApiClient) -> None:
    seen: list[int] = []
    async with ApiClient([f"unix://{agent.socket}"]) as other, asyncio.TaskGroup() as group:
        group.create_task(send_blob(api, BLOB, reader(seen=seen)))
        group.create_task(send_blob(other, BLOB, reader(seen=seen)))
    assert agent.context.blobs.path(BLOB.digest).read_bytes() == CONTENT
    assert leftovers(agent) == []


async def test_another_content_is_refused_and_begun_anew(agent: Served, api: ApiClient) -> None:
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(InvalidError) as caught:
        await send_blob(api, BLOB, reader(wrong))
    assert caught.value.code == "digest-mismatch"
    assert leftovers(agent) == []
    await send_blob(api, BLOB, reader())
    assert agent.context.blobs.has(BLOB.digest)


async def test_a_part_that_does_not_follow_is_refused(agent: Served, api: ApiClient) -> None:
    with pytest.raises(ConflictError) as caught:
        await api.write_blob(BLOB.digest, lambda: reader()(1000), BLOB.size_bytes, first=1000)
    assert caught.value.code == "upload-offset"
    assert leftovers(agent) == []


async def test_a_blob_that_does_not_fit_is_refused_and_leaves_nothing(agent: Served, api: ApiClient) -> None:
    agent.context.blobs._free_bytes = lambda _: BLOB.size_bytes - 1
    with pytest.raises(RefusedError) as caught:
        await send_blob(api, BLOB, reader())
    assert caught.value.code == "no-space"
    assert leftovers(agent) == []


async def test_a_disk_that_fills_up_meanwhile_is_given_back(agent: Served, api: ApiClient) -> None:
    store = agent.context.blobs
    store._free_bytes = lambda _: BLOB.size_bytes if not store.received(BLOB.digest) else 0
    with pytest.raises(VdcError):
        await send_blob(api, BLOB, reader(), patience_s=0)
    async with asyncio.timeout(30):
        while store.is_receiving(BLOB.digest):
            await asyncio.sleep(0.01)
    assert leftovers(agent) == [] and not store.promised


async def test_two_that_have_one_image_agree(agent: Served, api: ApiClient) -> None:
    """The same image under two names, registered at the same time."""
    await send_blob(api, BLOB, reader())
    image = Image(kind=ImageKind.KERNEL, kernel=BLOB)
    async with ApiClient([f"unix://{agent.socket}"]) as other, asyncio.TaskGroup() as group:
        group.create_task(api.register_image("me/one", image, source="one.img"))
        group.create_task(other.register_image("me/two", image))
    entries = [e for e in (await api.list_images()).items if e.image == image]
    assert [entry.names for entry in entries] == [("me/one:latest", "me/two:latest")]
    assert entries[0].chunks == {BLOB.digest: agent.context.blobs.chunk_list(BLOB.digest).digest}
    assert entries[0].size_bytes == BLOB.size_bytes and entries[0].used_by == ()


@pytest.mark.parametrize(
    ("range_", "status", "expected"),
    [
        ("bytes=0-9", 206, CONTENT[:10]),
        ("bytes=5-", 206, CONTENT[5:]),
        ("bytes=8000000-99999999999", 206, CONTENT[8_000_000:]),
        ("bytes=-5", 200, CONTENT),
        ("bytes=0-1,3-4", 200, CONTENT),
        ("bytes=99999999-", 416, None),
        ("bytes=9-8", 416, None),
    ],
)
async def test_ranges_of_a_blob(
    agent: Served, api: ApiClient, range_: str, status: int, expected: bytes | None
) -> None:
    import aiohttp

    await send_blob(api, BLOB, reader())
    url = f"{agent.url}/v1/blobs/{BLOB.digest}"
    async with aiohttp.ClientSession() as session, session.get(url, headers={"Range": range_}) as answer:
        assert answer.status == status
        if expected is not None:
            assert await answer.read() == expected


@pytest.mark.parametrize(
    "text", ["bytes 0-9", "bytes 0-9/5", "bytes 9-0/20", "bytes */20", "bytes 0-9/*", "x" * 5000]
)
async def test_a_content_range_that_makes_no_sense_is_refused(agent: Served, text: str) -> None:
    import aiohttp

    url = f"{agent.url}/v1/blobs/{BLOB.digest}"
    async with (
        aiohttp.ClientSession() as session,
        session.put(url, data=b"0123456789", headers={"Content-Range": text}) as answer,
    ):
        assert answer.status in (400, 422)
        assert (await answer.json())["code"] == "range-invalid"
    assert leftovers(agent) == []
