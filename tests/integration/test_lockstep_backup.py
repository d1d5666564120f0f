"""What a real pair's guest has written since a backup: marked by QEMU, through lockstep and the loss of either copy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lockstep_clients import load
from lockstep_support import MIB, Copy, Pair, missing
from test_lockstep_snapshot import more, nothing_is_left, protect

from hostagent.drivers.qemu import marks, primary, snapshots
from hostagent.drivers.qemu.snapshots import SnapshotPlan
from vdc.images.content import FileContent
from vdc.images.extents import Qcow2Map

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

OLD, NEW = "backup-20260101-000000-0001", "backup-20260101-000000-0002"
DISKS = 2


async def copied(copy: Copy, plan: SnapshotPlan, onto: list[bytearray] | None = None) -> list[bytearray]:
    """The disks as they are now: whole, or what has changed put onto what was before."""
    tool, sizes = copy.disks._tool, await copy.disks.virtual_sizes()
    for i, size in enumerate(sizes):
        (copy.folder / plan.file(i)).unlink(missing_ok=True)
        await tool.create(plan.file(i), size)
    await snapshots.begin(copy.qmp, plan)
    await snapshots.finish(copy.qmp, plan)
    assert await nothing_is_left(copy)
    found = []
    for i, size in enumerate(sizes):
        content = bytearray(onto[i]) if onto is not None else bytearray(size)
        with (copy.folder / plan.file(i)).open("rb") as file:
            source = FileContent(file.fileno(), os.fstat(file.fileno()).st_size)
            disk = Qcow2Map(source)
            assert disk.virtual_bytes == size
            for first in range(0, size, disk.table_bytes):
                for part in disk.extents(first, MIB):
                    data = (
                        source.read(part.place, part.length) if part.place is not None else bytes(part.length)
                    )
                    content[part.offset : part.offset + part.length] = data
        found.append(content)
    return found


async def test_the_changes_and_what_was_before_are_the_whole(tmp_path: Path) -> None:
    async with Pair(disks=DISKS) as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            second, lockstep = await protect(pair, first)
            await more(talker, store)
            before = await copied(first, SnapshotPlan(DISKS, mark=OLD))
            assert set(await marks.changed_bytes(first.qmp, DISKS)) == {OLD}
            await more(talker, store)
            await pair.kill(second)
            await primary.leave(first.qmp, lockstep)  # it lost its secondary, and gets another one
            await more(talker, store)
            third, lockstep = await protect(pair, first)
            await more(talker, store)
            changes = SnapshotPlan(DISKS, mark=NEW, changed_since=OLD)
            during = await copied(first, changes, before)  # while the guest goes on
            assert set(await marks.changed_bytes(first.qmp, DISKS)) == {OLD, NEW}
            await more(talker, store)
            await primary.leave(first.qmp, lockstep)
            await pair.kill(third)
            await primary.quiesce(first.qmp)
            whole = await copied(first, SnapshotPlan(DISKS))
            assert whole != before
            written = await marks.changed_bytes(first.qmp, DISKS)
            assert 0 < written[NEW] <= written[OLD] < sum(map(len, whole))
            assert await copied(first, SnapshotPlan(DISKS, changed_since=OLD), before) == whole
            assert await copied(first, SnapshotPlan(DISKS, changed_since=NEW), during) == whole
            await primary.resume(first.qmp)
            await more(talker, store)
        assert await store.audit() == []


async def test_what_was_zeroed_or_discarded_since_is_a_change() -> None:
    """Were it left out of the copy of the changes, the backup would keep what was there before."""
    async with Pair(disks=DISKS) as pair:
        copy = await pair.start_primary()

        async def io(command: str) -> str:
            """As the guest's driver would, by its device."""
            line = {"command-line": f'qemu-io -d /machine/peripheral/vd1/virtio-backend "{command}"'}
            said: str = await copy.qmp.execute("human-monitor-command", line, deadline_s=30)
            assert "rror" not in said and "nvalid" not in said, said
            return said

        await io("write -P 0xaa 0 16M")
        before = await copied(copy, SnapshotPlan(DISKS, mark=OLD))
        assert before[1][: 16 * MIB] == b"\xaa" * 16 * MIB
        await io("write -z 1M 1M")
        await io("write -z -u 3M 1M")
        await io("discard 5M 1M")
        await io("write -P 0 7M 1M")
        await io(f"write -z {9 * MIB + 4096} 8192")  # less than a cluster
        await io(f"discard {11 * MIB + 4096} 1M")
        await io("write -P 0xbb 13M 64k")
        await io("discard 17M 1M")  # nothing was there
        changed = (await copied(copy, SnapshotPlan(DISKS, mark=NEW, changed_since=OLD), before))[1]
        whole = (await copied(copy, SnapshotPlan(DISKS)))[1]
        assert changed == whole
        for first, length in ((1 * MIB, MIB), (3 * MIB, MIB), (7 * MIB, MIB), (9 * MIB + 4096, 8192)):
            assert changed[first : first + length] == bytes(length)
        for first in (5 * MIB, 11 * MIB + 4096):
            assert "failed" not in await io(f"read -P {changed[first]} {first} 1M"), "as the guest reads it"
            assert changed[first : first + MIB] == bytes([changed[first]]) * MIB


async def test_a_repository_keeps_its_own_mark_and_a_promoted_copy_has_none() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            second, lockstep = await protect(pair, first)
            weekly, *nightly, failed = [f"backup-20260101-00000{n}-0000" for n in range(8)]
            await copied(first, SnapshotPlan(1, mark=weekly))
            before = ""
            for name in nightly:
                await copied(first, SnapshotPlan(1, mark=name))
                await marks.settle(first.qmp, 1, name, before)
                before = name
            assert set(await marks.changed_bytes(first.qmp, 1)) == {weekly, before}
            await copied(first, SnapshotPlan(1, mark=failed))
            await marks.drop(first.qmp, 1, failed)
            assert set(await marks.changed_bytes(first.qmp, 1)) == {weekly, before}
            await marks.drop(first.qmp, 1, weekly)
            others = [f"backup-20260102-00000{n}-0000" for n in range(marks.MOST)]
            for name in others:  # each into another repository
                await copied(first, SnapshotPlan(1, mark=name))
                await marks.settle(first.qmp, 1, name, "")
            assert set(await marks.changed_bytes(first.qmp, 1)) == set(others)
            await pair.kill(first)
            await pair.take_over(second, lockstep)
            await more(talker, store)
            assert await marks.changed_bytes(second.qmp, 1) == {}
        assert await store.audit() == []
