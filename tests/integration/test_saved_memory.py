"""A real QEMU whose memory is saved while it stands still: the guest goes on in another one, on the disks of then."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from file_limit import broken_disk
from lockstep_clients import Store, running, wait_for
from lockstep_support import GUEST_ADDRESS, MIB, MINI, Copy, Pair, missing

from hostagent.drivers.qemu import primary, saving, snapshots
from hostagent.drivers.qemu.snapshots import SnapshotPlan
from hostagent.drivers.qemu.steps import run_state
from vdc.model.errors import ConflictError, RefusedError

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

PLAN = SnapshotPlan(disks=1)


async def counters(pair: Pair) -> dict[str, Any]:
    """What the guest's program has in its memory."""
    reader, writer = await pair.open(80)
    writer.write(f"GET / HTTP/1.0\r\nHost: {GUEST_ADDRESS}\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


async def copy_disks(copy: Copy) -> None:
    for i, size in enumerate(await copy.disks.virtual_sizes()):
        await copy.disks._tool.create(PLAN.file(i), size)
    await snapshots.begin(copy.qmp, PLAN)
    await snapshots.finish(copy.qmp, PLAN)


def image_with_memory(copy: Copy, folder: Path) -> Path:
    """An image folder with what was saved: the disk, and the memory beside it."""
    for file in MINI.iterdir():
        if file.name != "disk.qcow2":
            shutil.copy(file, folder / file.name)
    for name, target in ((PLAN.file(0), "disk.qcow2"), (saving.FILE, "memory")):
        shutil.copy(copy.folder / name, folder / target)
        (folder / target).chmod(0o644)
    folder.chmod(0o755)
    return folder


async def test_the_program_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        store = Store(pair)
        async with running(store):
            await wait_for(lambda: len(store.acknowledged) >= 10 or bool(store.failure), "writes", 60)
        for _ in range(9):
            before = await counters(pair)
        await primary.quiesce(first.qmp)
        seen: list[tuple[int, int]] = []
        await saving.save(first.qmp, progress=lambda *figures: seen.append(figures))
        await copy_disks(first)  # QEMU has its disks again
        with pytest.raises(ConflictError) as again:
            await saving.save(first.qmp)
        assert again.value.code == "memory-saved"
        pair.image_dir = image_with_memory(first, tmp_path)
        await primary.resume(first.qmp)
        assert (await counters(pair))["uptime_s"] > before["uptime_s"], "the first one goes on as well"
        await primary.quiesce(first.qmp)
        await saving.save(first.qmp)  # having run, it can be saved once more
        await saving.end(first.qmp)
        await primary.resume(first.qmp)
        await pair.kill(first)

        pair.spec_changes["awaits_memory"] = True
        second = await pair.start_primary()
        await saving.load(second.qmp, "/images/memory")
        assert await run_state(second.qmp) == "paused"
        await primary.resume(second.qmp)
        after = await counters(pair)
        assert after["uptime_s"] > before["uptime_s"]
        assert after["connections"] > before["connections"] >= 9, "its memory counts on"
        assert after["puts"] == before["puts"] >= 10
        assert await store.audit() == []


async def test_what_cannot_be_saved_or_loaded_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        await primary.quiesce(first.qmp)
        with broken_disk(first.pid, 4 * MIB), pytest.raises(saving.SavingError):
            await saving.save(first.qmp)
        await saving.end(first.qmp)
        assert await run_state(first.qmp) == "paused"
        await first.qmp.execute("migrate-set-parameters", {"max-bandwidth": MIB})
        await first.qmp.execute("migrate", {"uri": f"file:/vm/{saving.FILE}"})
        await saving.end(first.qmp)  # an agent that died in the middle
        await saving.save(first.qmp)
        await copy_disks(first)
        await primary.resume(first.qmp)
        await counters(pair)
        await pair.kill(first)

        folder = image_with_memory(first, tmp_path)
        memory = bytearray((folder / "memory").read_bytes())
        (folder / "memory").write_bytes(memory[: len(memory) // 2])
        pair.image_dir = folder
        pair.spec_changes["awaits_memory"] = True
        second = await pair.start_primary()
        with pytest.raises(RefusedError) as caught:
            await saving.load(second.qmp, "/images/memory")
        assert caught.value.code == "memory-unloadable"
