"""Taking a backup: what an agent sends is proven before it stands in the repository."""

from __future__ import annotations

import hashlib
import os
from types import SimpleNamespace

import pytest
from protection_world import endophyte

from vdc.api.backups import BackupDiskView, BackupView, PartKind, head_of
from vdc.backup.reading import verify
from vdc.backup.record import ZEROS, BackupFile
from vdc.backup.repository import Repository
from vdc.backup.taking import BackupTaker
from vdc.model.errors import InvalidError
from vdc.model.image import Blob, Image, ImageKind

KERNEL = b"kernel" * 100
BLOB = Blob(digest="sha256:" + hashlib.sha256(KERNEL).hexdigest(), size_bytes=len(KERNEL))
SIZE = 4096


class Agent:
    """One disk of zeros and a kernel. `kernel`: what the store has in its place."""

    def __init__(self, kernel=KERNEL):
        self.kernel, self.count, self.ended, self.read = kernel, 0, [], 0
        self.backups = SimpleNamespace(create=self.create, read=self.stream, end=self.end)

    async def get_endophyte(self, name):
        return SimpleNamespace(metadata=SimpleNamespace(uid="u"))

    async def create(self, name, request):
        self.count += 1
        return BackupView(
            id=f"20260131-12000{self.count}-0000", endophyte=name, uid="u", host="h1", since="",
            created_at="2026-01-31T12:00:00Z", is_quiesced=False, was_running=True, full_because="so",
            disks=(BackupDiskView(name="root", virtual_bytes=SIZE),), manifest=endophyte().manifest.model_dump(),
            image=Image(kind=ImageKind.KERNEL, kernel=BLOB, arch="x86_64"),
        )  # fmt: skip

    async def stream(self, name, backup, host, disk, first):
        yield head_of(PartKind.END, SIZE)

    async def end(self, name, backup, host, *, kept):
        self.ended.append(kept)

    async def read_blob(self, digest):
        self.read += 1
        yield self.kernel


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return Repository.init(str(tmp_path / "r"))[0]


def taker(agent, repository):
    return BackupTaker(agent, repository, lambda *_: None)


async def test_a_kernel_is_read_once_and_proven(repository):
    agent = Agent()
    made, why = await taker(agent, repository).take("web")
    again, _ = await taker(agent, repository).take("web")
    assert (why, agent.read, agent.ended) == ("so", 1, [True, True])
    assert made.files == again.files != (BackupFile(blob=BLOB, chunks=(ZEROS,)),)
    assert not verify(repository, lambda *_: None).damaged


@pytest.mark.parametrize("content", [b"z" * len(KERNEL), KERNEL[:-1], b"", KERNEL + b"x"])
async def test_a_kernel_that_is_another_becomes_no_backup_and_no_chunk(repository, content):
    agent = Agent(content)
    with pytest.raises(InvalidError) as caught:
        await taker(agent, repository).take("web")
    assert caught.value.code == "digest-mismatch" and agent.ended == [False]
    assert [one.key for one in repository.storage.list("")] == ["vdc-backup.json"]
