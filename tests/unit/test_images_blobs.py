"""The store of blobs: verified, whole or absent, safe against crashes and full disks."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from vdc.images import writing
from vdc.images.blobs import BlobStore, Swept
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, RefusedError
from vdc.model.image import Blob

CONTENT = bytes(range(256)) * 9000  # more than two batches
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


async def stream(content: bytes = CONTENT, step: int = 100_000) -> AsyncIterator[bytes]:
    for place in range(0, len(content), step):
        yield content[place : place + step]


def leftovers(store: BlobStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir() if path.name.startswith("."))


async def test_a_blob_is_stored_verified_and_readable_by_others(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "images")
    old = os.umask(0o077)
    try:
        blob = await store.write(DIGEST, stream(), len(CONTENT))
    finally:
        os.umask(old)
    assert blob.size_bytes == len(CONTENT)
    with store.open(DIGEST) as file:
        assert file.read() == CONTENT
    assert stat.S_IMODE(store.path(DIGEST).stat().st_mode) == 0o644
    for folder in (tmp_path / "images", tmp_path / "images/blobs", store.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert store.digests() == (DIGEST,)
    assert (store.usage().blobs, store.usage().size_bytes) == (1, len(CONTENT))
    assert leftovers(store) == []


async def test_an_empty_blob_is_a_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    digest = "sha256:" + hashlib.sha256(b"").hexdigest()
    await store.write(digest, stream(b""), 0)
    assert store.path(digest).read_bytes() == b""


async def test_a_blob_that_is_here_is_not_read_again(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    await store.write(DIGEST, stream())

    async def forbidden() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    assert (await store.write(DIGEST, forbidden())).size_bytes == len(CONTENT)


@pytest.mark.parametrize("announced", [len(CONTENT) - 1, len(CONTENT) + 1])
async def test_another_size_than_announced_is_refused(tmp_path: Path, announced: int) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(InvalidError) as caught:
        await store.write(DIGEST, stream(), announced)
    assert caught.value.code == "digest-mismatch"
    assert not store.has(DIGEST) and leftovers(store) == []


async def test_other_content_than_announced_is_refused(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(InvalidError, match="announced was") as caught:
        await store.write(DIGEST, stream(CONTENT[:-1] + b"x"))
    assert caught.value.code == "digest-mismatch"
    assert not store.has(DIGEST) and leftovers(store) == []


async def test_too_little_space_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, reserve_bytes=100, free_bytes=lambda _: len(CONTENT) + 99)

    async def forbidden() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    with pytest.raises(RefusedError) as caught:
        await store.write(DIGEST, forbidden(), len(CONTENT))
    assert caught.value.code == "no-space"


async def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlobStore(tmp_path)

    def full(_self: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.BlobWriter, "flush", full)
    with pytest.raises(RefusedError) as caught:
        await store.write(DIGEST, stream())
    assert caught.value.code == "no-space"
    assert leftovers(store) == []


async def test_a_stream_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)

    async def broken() -> AsyncIterator[bytes]:
        yield CONTENT
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.write(DIGEST, broken())
    assert leftovers(store) == [] and not store.has(DIGEST)


async def test_a_cancelled_write_leaves_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield CONTENT
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.write(DIGEST, endless()))
    await begun.wait()
    assert len(leftovers(store)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert leftovers(store) == []


async def test_two_writers_of_one_blob_do_not_disturb_each_other(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    await asyncio.gather(*(store.write(DIGEST, stream(step=n)) for n in (50_000, 70_000, 90_000)))
    assert store.path(DIGEST).read_bytes() == CONTENT and leftovers(store) == []


def test_a_sweep_takes_what_a_crash_left_and_spares_what_is_being_written(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.prepare()
    (store.folder / ".incoming-dead").write_bytes(b"x")
    (store.folder / "keep").write_bytes(b"x")
    with (store.folder / ".incoming-live").open("wb") as live:
        fcntl.flock(live, fcntl.LOCK_EX)
        assert store.sweep().unfinished == (".incoming-dead",)
    assert store.sweep().unfinished == (".incoming-live",)
    assert (store.folder / "keep").exists()


def test_an_absent_store_is_empty(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "no")
    assert store.digests() == () and store.sweep() == Swept() and not store.has(DIGEST)
    assert not (tmp_path / "no").exists()


def test_absent_blobs_and_removal(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.prepare()
    with pytest.raises(NotFoundError):
        store.open(DIGEST)
    assert not store.remove(DIGEST)
    store.path(DIGEST).write_bytes(b"")
    assert store.remove(DIGEST) and not store.has(DIGEST)


@pytest.mark.parametrize("text", ["../../etc/passwd", "sha256:../../../etc/passwd", "sha256:", ""])
def test_only_digests_become_paths(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidError):
        BlobStore(tmp_path).path(text)


async def part(store: BlobStore, first: int, content: bytes) -> Blob | None:
    return await store.write_part(DIGEST, first, stream(content), len(CONTENT))


async def test_an_upload_in_parts_is_gone_on_with_by_another_agent(tmp_path: Path) -> None:
    assert await part(BlobStore(tmp_path), 0, CONTENT[:1_000_000]) is None
    store = BlobStore(tmp_path)
    assert store.received(DIGEST) == 1_000_000 and not store.has(DIGEST)
    with pytest.raises(ConflictError):
        await part(store, 999_999, CONTENT[999_999:])
    assert await part(store, 1_000_000, CONTENT[1_000_000:]) == Blob(digest=DIGEST, size_bytes=len(CONTENT))
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert leftovers(store) == [] and not store.promised


async def test_what_a_crash_damaged_in_an_upload_is_found_out(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    await part(store, 0, CONTENT[:1_000_000])
    with store._upload(DIGEST).open("r+b") as file:
        file.write(b"????")
    with pytest.raises(InvalidError):
        await part(store, 1_000_000, CONTENT[1_000_000:])
    assert leftovers(store) == [] and store.received(DIGEST) == 0


async def test_two_agents_do_not_write_the_same_upload(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield CONTENT[:10]
        begun.set()
        await go_on.wait()
        yield CONTENT[10:]

    store, other = BlobStore(tmp_path), BlobStore(tmp_path)
    first = asyncio.create_task(store.write_part(DIGEST, 0, slow(), len(CONTENT)))
    await begun.wait()
    assert store.is_receiving(DIGEST)
    for one in (store, other):
        with pytest.raises(ConflictError) as caught:
            await part(one, 0, CONTENT)
        assert caught.value.code == "blob-busy"
    go_on.set()
    assert await first is not None and store.path(DIGEST).read_bytes() == CONTENT
    assert leftovers(store) == []


async def test_zeros_take_no_room(tmp_path: Path) -> None:
    content = b"begin" + bytes(32 * 1024**2) + b"end" + bytes(8 * 1024**2)
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    store = BlobStore(tmp_path)
    await store.write(digest, stream(content))
    assert store.path(digest).read_bytes() == content
    assert store.path(digest).stat().st_blocks * 512 <= 4 * 1024**2
    assert store.usage().size_bytes <= 4 * 1024**2


async def test_the_chunk_list_is_made_anew_where_it_was_lost(tmp_path: Path) -> None:
    content = CONTENT * 3
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    store = BlobStore(tmp_path)
    await store.write(digest, stream(content))
    path = store.path(digest).with_suffix(".chunks")
    expected = path.read_bytes()
    for damage in (path.unlink, lambda: path.write_bytes(b"x")):
        damage()
        assert store.chunk_list(digest).digests == expected == path.read_bytes()
    assert store.remove(digest) and not path.exists()


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


async def test_a_sweep_takes_what_nothing_needs_once_it_is_old(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    await store.write(DIGEST, stream())
    other = CONTENT * 2
    needed = "sha256:" + hashlib.sha256(other).hexdigest()
    await store.write(needed, stream(other))
    third = "sha256:" + "3" * 64
    files = [store.path(DIGEST), store.path(needed), store._upload(third), store.fetch_path(third)]
    for file in files[2:]:
        file.write_bytes(b"12345")
    wanted = store.fetch_path(needed)
    wanted.write_bytes(b"12345")
    (store.folder / ("4" * 64 + ".chunks")).write_bytes(b"of no blob")
    assert store.sweep({needed}, idle_s=100) == Swept()
    for file in (*files, wanted):
        age(file, 101)
    found = store.sweep({needed}, idle_s=100, is_dry=True)
    assert found.blobs == (DIGEST,) and len(found.unfinished) == 2
    assert found.size_bytes == len(CONTENT) + 10 and all(file.exists() for file in files)
    assert store.sweep({needed}, idle_s=100) == found
    assert {path.name for path in store.folder.iterdir()} == {
        files[1].name, files[1].name + ".chunks", wanted.name
    }  # fmt: skip
