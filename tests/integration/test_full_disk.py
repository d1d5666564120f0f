"""A file system with not one block left: what must be remembered still is, the rest says so and leaves nothing."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hostagent.supervisor.state import STATE_FILE, CopyState, load_state, save_state
from vdc.images.blobs import BlobStore
from vdc.model.errors import RefusedError, UnavailableError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root (mount)")


class SmallDisk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        free = os.statvfs(self.folder)
        with (self.folder / "filler").open("ab") as file:
            size = file.seek(0, os.SEEK_END)
            os.posix_fallocate(file.fileno(), size, free.f_bavail * free.f_frsize)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True, timeout=10)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=10)


async def test_the_epoch_is_remembered_on_a_full_disk(disk: SmallDisk) -> None:
    folder = disk.folder / "web"
    await save_state(folder, CopyState(name="web", uid="u", highest_epoch=1))
    disk.fill()
    await save_state(folder, CopyState(name="web", uid="u", highest_epoch=2))
    assert load_state(folder) == CopyState(name="web", uid="u", highest_epoch=2)


async def test_where_not_even_that_fits_the_old_state_stands_and_the_caller_is_told(disk: SmallDisk) -> None:
    folder = disk.folder / "web"
    before = CopyState(name="web", uid="u", highest_epoch=1)
    await save_state(folder, before)
    (folder / ".reserve").unlink()
    disk.fill()
    with pytest.raises(UnavailableError) as caught:
        await save_state(folder, before.with_(highest_epoch=2))
    assert caught.value.code == "state-unwritable"
    assert "No space left" in str(caught.value)
    assert load_state(folder) == before
    assert {path.name for path in folder.iterdir()} == {STATE_FILE}, "nothing half-made is left"


async def test_an_image_that_does_not_fit_leaves_nothing(disk: SmallDisk) -> None:
    store = BlobStore(disk.folder / "images")
    store.prepare()
    content = os.urandom(2 << 20)
    digest = "sha256:" + hashlib.sha256(content).hexdigest()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 1 << 16):
            yield content[start : start + (1 << 16)]

    for size in (None, len(content)):  # found out on the way, and known before
        with pytest.raises(RefusedError) as caught:
            await store.write(digest, chunks(), size)
        assert caught.value.code == "no-space"
        assert list(store.folder.iterdir()) == []
