"""What a host keeps of the cluster's images, what it gives up, and what it says about that."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from hostagent.agent import images as keeping
from hostagent.agent.images import RECENT_S, UNNAMED_S, ImageKeeper
from vdc.images.blobs import BlobStore
from vdc.model.errors import RefusedError, UnavailableError, VdcError
from vdc.model.image import Blob, Image, ImageEntry, ImageKind
from vdc.store import keys
from vdc.store.memory import MemoryStore
from vdc.store.mirror import Mirror
from vdc.store.protocol import Delete, Put

CONTENT = b"kernel" * 1000
BLOB = Blob(digest="sha256:" + hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT))
OTHER = Blob(digest="sha256:" + hashlib.sha256(b"other").hexdigest(), size_bytes=5)


def entry(letter: str, *blobs: Blob, hosts: tuple[str, ...] = ("h2",)) -> ImageEntry:
    parts = dict(zip(("kernel", "initrd"), blobs, strict=False))
    image = Image(kind=ImageKind.KERNEL, **parts)
    return ImageEntry(digest="sha256:" + letter * 64, image=image, names=(f"me/{letter}:1",), hosts=hosts)


class World:
    """Host h1 with a store in memory; `peer` is what fetching does."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keeping, "RETRY_S", 0.01)
        self.store, self.blobs = MemoryStore(), BlobStore(folder)
        self.mirror = Mirror(self.store, report=lambda _: None)
        self.now_s = 1000.0
        self.told: list[tuple[str, str]] = []
        self.trouble: VdcError | None = None
        self.bases: set[str] = set()
        host: Any = SimpleNamespace(
            name="h1", mirror=self.mirror, store=self.store, log=structlog.get_logger(), images=self,
            clock=SimpleNamespace(boottime_s=lambda: self.now_s), ensure_image=self.ensure, tell_of_node=self.tell,
        )  # fmt: skip
        self.keeper = ImageKeeper(host, self.blobs, lambda: self.bases)

    def is_present(self, image: Image) -> bool:
        return all(self.blobs.has(blob.digest) for blob in image.blobs)

    async def ensure(self, found: ImageEntry) -> None:
        if self.trouble is not None:
            raise self.trouble
        for blob, content in ((BLOB, CONTENT), (OTHER, b"other")):
            if blob in found.image.blobs:
                await self.blobs.write(blob.digest, one(content))

    async def tell(self, code: str, sentence: str) -> None:
        self.told.append((code, sentence))

    async def put(self, *entries: ImageEntry) -> None:
        await self.store.commit([], [Put(keys.image(e.digest), e.to_json()) for e in entries])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.005)


async def one(content: bytes) -> Any:
    yield content


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = World(tmp_path, monkeypatch)
    tasks = [asyncio.create_task(made.mirror.run()), asyncio.create_task(made.keeper.run())]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def hosts(world: World, letter: str) -> tuple[str, ...]:
    found = world.mirror.images.get("sha256:" + letter * 64)
    return found.value.hosts if found else ()


async def test_a_host_that_joins_late_fetches_every_image(world: World) -> None:
    await world.put(entry("a", BLOB), entry("b", OTHER))
    await world.until(lambda: hosts(world, "a") == hosts(world, "b") == ("h1", "h2"))
    assert world.blobs.digests() == tuple(sorted((BLOB.digest, OTHER.digest)))
    assert (await world.keeper.check()).level == "ok"


async def test_what_a_host_lost_is_fetched_again(world: World) -> None:
    await world.put(entry("a", BLOB, hosts=("h1", "h2")))
    await world.until(lambda: world.blobs.has(BLOB.digest))


async def test_a_full_disk_is_told_once_and_tried_until_there_is_room(world: World) -> None:
    world.trouble = RefusedError("there is no space for the image", code="no-space", hint="free room")
    await world.put(entry("a", BLOB))
    await world.until(lambda: bool(world.told))
    await asyncio.sleep(0.1)  # several attempts
    assert [code for code, _ in world.told] == ["image-missing"] and "me/a:1" in world.told[0][1]
    check = await world.keeper.check()
    assert check.level == "warning" and "me/a:1 is not here" in check.sentence and check.hint == "free room"
    world.trouble = UnavailableError("no host could send it", code="image-unavailable")
    await world.until(lambda: len(world.told) == 2)
    world.trouble = None
    await world.until(lambda: hosts(world, "a") == ("h1", "h2"))
    await world.until(lambda: not world.keeper.problems)
    assert (await world.keeper.check()).level == "ok"


async def test_content_goes_with_the_last_image_that_needs_it(world: World) -> None:
    await world.put(entry("a", BLOB, OTHER), entry("b", OTHER))
    await world.until(lambda: hosts(world, "a") == hosts(world, "b") == ("h1", "h2"))
    await world.store.commit([], [Delete(keys.image("sha256:" + "a" * 64))])
    await world.until(lambda: not world.blobs.has(BLOB.digest))
    assert world.blobs.has(OTHER.digest)


async def test_what_a_guests_disk_stands_on_stays(world: World) -> None:
    world.bases = {BLOB.digest}
    await world.put(entry("a", BLOB, OTHER))
    await world.until(lambda: hosts(world, "a") == ("h1", "h2"))
    await world.store.commit([], [Delete(keys.image("sha256:" + "a" * 64))])
    await world.until(lambda: not world.blobs.has(OTHER.digest))
    assert world.blobs.has(BLOB.digest)


def age(world: World) -> None:
    """Every file is as old as it can be."""
    for path in world.blobs.folder.iterdir():
        then = time.time() - 2 * UNNAMED_S
        os.utime(path, (then, then))


async def test_an_upload_that_nobody_named_goes_after_a_day_and_not_before(world: World) -> None:
    await world.blobs.write(BLOB.digest, one(CONTENT))
    age(world)
    await world.keeper.tidy()  # its records may just have been lost
    world.now_s += UNNAMED_S - 1
    await world.keeper.tidy()
    assert world.blobs.has(BLOB.digest)
    world.now_s += 1
    await world.keeper.tidy()
    assert not world.blobs.has(BLOB.digest)


async def test_one_that_was_named_meanwhile_stays(world: World) -> None:
    await world.blobs.write(BLOB.digest, one(CONTENT))
    await world.keeper.tidy()
    await world.put(entry("a", BLOB))
    await world.until(lambda: hosts(world, "a") == ("h1", "h2"))
    age(world)
    world.now_s += 2 * UNNAMED_S
    await world.keeper.tidy()
    assert world.blobs.has(BLOB.digest)


async def test_pruning_takes_what_is_not_needed_at_once_unless_it_is_new(world: World) -> None:
    await world.blobs.write(BLOB.digest, one(CONTENT))
    world.blobs._upload(OTHER.digest).write_bytes(b"oth")
    assert (await world.keeper.sweep_now(is_dry=False)).size_bytes == 0
    for path in world.blobs.folder.iterdir():
        then = time.time() - RECENT_S - 1
        os.utime(path, (then, then))
    for is_dry in (True, False):
        found = await world.keeper.sweep_now(is_dry=is_dry)
        assert (found.host, found.blobs, found.unfinished) == ("h1", (BLOB.digest,), 1)
        assert found.size_bytes == len(CONTENT) + 3
    assert list(world.blobs.folder.iterdir()) == []
