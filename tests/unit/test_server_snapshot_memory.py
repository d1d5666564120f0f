"""Restoring a memory is refused before anything is given up for it, where it could not go on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from protection_world import endophyte, host
from server_support import made_context

from hostagent.server.snapshots import SnapshotHandlers
from vdc.api.snapshots import RestoreRequest
from vdc.model.errors import RefusedError
from vdc.model.image import Blob, Image, ImageEntry, ImageKind
from vdc.model.memory import SavedMachine
from vdc.model.snapshot import Snapshot, SnapshotMemory, SnapshotState, memory_name
from vdc.store import keys
from vdc.store.protocol import Put

VM, HOST = endophyte(), host("h1")
NAME = memory_name("web", "one")
DIGEST = "sha256:" + "e" * 64
SNAPSHOT = Snapshot(
    name="one", endophyte="web", uid=VM.uid, host="h1", created_at="2026-01-01T00:00:00Z", manifest=VM.manifest,
    state=SnapshotState.READY, memory=SnapshotMemory(image=NAME),
)  # fmt: skip
MACHINE = SavedMachine(
    machine="q35", accelerator=HOST.accelerator.name, qemu_version=HOST.qemu.version, cpu_model="qemu64", cpus=1,
    memory_bytes=1, firmware="bios", display="none", disk_sizes_bytes=(), macs=tuple(nic.mac for nic in VM.nics),
    ports=(), has_config=False, has_seed=False,
)  # fmt: skip


async def ask(folder: Path, machine: SavedMachine, body: RestoreRequest) -> None:
    image = Image(kind=ImageKind.MEMORY, memory=Blob(digest=DIGEST, size_bytes=1), machine=machine)
    entry = ImageEntry(digest=DIGEST, image=image, names=(NAME,))
    async with made_context(folder) as context:
        puts = [Put(keys.image(DIGEST), entry.to_json()), Put(keys.image_name(NAME), DIGEST)]
        await context.host.store.commit([], puts)
        async with asyncio.timeout(5):
            while NAME not in context.host.mirror.image_names:
                await asyncio.sleep(0)
        await SnapshotHandlers(context)._require_loadable(SNAPSHOT, body)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "audit").mkdir()
    return tmp_path


async def test_the_vm_itself_on_hosts_like_the_one_of_then(folder: Path) -> None:
    await ask(folder, MACHINE, RestoreRequest())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"qemu_version": "9.9"}, "in place of 9.9"),
        ({"accelerator": "kvm"}, "in place of kvm"),
        ({"macs": ("52:54:00:00:00:99",)}, "in place of 52:54:00:00:00:99"),
        ({"layout": 0}, "arrangement of devices"),
    ],
)
async def test_what_differs_is_said(folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        await ask(folder, MACHINE.with_(**changes), RestoreRequest())
    assert caught.value.code == "memory-unfit" and "--no-memory" in caught.value.problem.hint


async def test_another_vm_has_other_addresses(folder: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        await ask(folder, MACHINE, RestoreRequest(as_name="copy"))
    assert caught.value.code == "memory-not-new"
