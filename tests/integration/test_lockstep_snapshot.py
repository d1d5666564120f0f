"""Snapshots of a real pair: taken in lockstep under load, and what comes of one when the pair changes meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from file_limit import broken_disk
from lockstep_clients import Store, Talker, load, wait_for
from lockstep_support import MIB, MINI, Copy, Pair, missing

from hostagent.drivers.process.users import own_by, owner_of
from hostagent.drivers.qemu import primary, snapshots
from hostagent.drivers.qemu.inspect import LiveRole, inspect
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.drivers.qemu.snapshots import SnapshotError, SnapshotPlan

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

SLOW = MIB  # bytes per second: slow enough for something to happen meanwhile
WRITE_S = 3.0  # in lockstep a write is a checkpoint or two, and each takes a second where others want the processors
PROMPT_MS = 10_000  # no timeout of a network was waited for; the benchmarks measure how long it takes


async def begin(pair: Pair, prime: Copy, plan: SnapshotPlan) -> None:
    """Make the copy's files and fix the moment."""
    tool = prime.disks._tool
    for i, size in enumerate(await prime.disks.virtual_sizes()):
        await tool.create(plan.file(i), size)
    await snapshots.begin(prime.qmp, plan)


async def more(talker: Talker, store: Store, count: int = 40) -> None:
    target, answers = len(store.acknowledged) + count, talker.answers
    await wait_for(
        lambda: (
            (len(store.acknowledged) >= target and talker.answers > answers)
            or bool(store.failure or talker.failure)
        ),
        "writes",
        30 + count * WRITE_S,
    )
    assert not store.failure
    assert not talker.failure


async def protect(pair: Pair, prime: Copy) -> tuple[Copy, LockstepPlan]:
    second = await pair.start_secondary()
    plan, _ = await pair.protect(prime, second)
    await pair.in_sync(prime, second)
    return second, plan


async def nothing_is_left(copy: Copy) -> bool:
    state = await inspect(copy.qmp)
    return not any(name.startswith("snap") for name in state.block_nodes | state.jobs)


def image_of(copy: Copy, plan: SnapshotPlan, folder: Path) -> Path:
    """An image folder whose disk is what was copied."""
    for file in MINI.iterdir():
        if file.name != "disk.qcow2":
            shutil.copy(file, folder / file.name)
    shutil.copy(copy.folder / plan.file(0), folder / "disk.qcow2")
    (folder / "disk.qcow2").chmod(0o644)
    folder.chmod(0o755)
    return folder


async def lost_in(folder: Path, acknowledged: dict[int, str]) -> list[int]:
    """Which of these writes a guest that starts from a snapshot does not have."""
    async with Pair() as pair:
        pair.image_dir = folder
        await pair.start_primary()
        await pair.guest_is_up()
        store = Store(pair)
        store.acknowledged = acknowledged
        return await store.audit()


async def test_a_snapshot_in_lockstep_has_all_that_was_acknowledged_before_it(tmp_path: Path) -> None:
    async with Pair(disks=2) as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            second, lockstep = await protect(pair, first)
            await more(talker, store)
            before, checkpoints = dict(store.acknowledged), first.meter.count
            plan = SnapshotPlan(disks=2, copy_bytes_per_s=16 * MIB)
            seen: list[tuple[int, int]] = []
            await begin(pair, first, plan)
            await snapshots.finish(first.qmp, plan, lambda done, total: seen.append((done, total)))
            assert seen[-1][0] == seen[-1][1] > 0
            assert first.meter.count > checkpoints
            assert (await inspect(first.qmp)).role is LiveRole.PRIMARY
            assert await nothing_is_left(first)
            await more(talker, store)
            await pair.kill(first)
            await pair.take_over(second, lockstep)
            await more(talker, store)
        assert await store.audit() == []
        folder = image_of(first, plan, tmp_path)
    assert await lost_in(folder, before) == []


async def test_the_copy_is_of_the_moment_however_much_is_written_meanwhile() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            await more(talker, store)
            await primary.quiesce(first.qmp)
            shutil.copy(first.folder / "disk0.qcow2", first.folder / "then.qcow2")
            own_by(first.folder, owner_of(first.folder))
            plan = SnapshotPlan(disks=1, copy_bytes_per_s=8 * MIB)
            await begin(pair, first, plan)
            await primary.resume(first.qmp)
            await more(talker, store)
            await snapshots.finish(first.qmp, plan)
        tool = first.disks._tool
        await tool._run(
            "compare", "-q", "-f", "qcow2", "-F", "qcow2", "/vm/then.qcow2", "/vm/snap0.qcow2", deadline_s=60
        )
        with pytest.raises(Exception, match="compare"):
            await tool._run(
                "compare",
                "-U",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "qcow2",
                "/vm/disk0.qcow2",
                "/vm/snap0.qcow2",
                deadline_s=60,
            )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
async def test_the_secondary_is_lost_in_the_middle(number: signal.Signals, tmp_path: Path) -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            second, lockstep = await protect(pair, first)
            await more(talker, store)
            before = dict(store.acknowledged)
            plan = SnapshotPlan(disks=1, copy_bytes_per_s=SLOW)
            await begin(pair, first, plan)
            await more(talker, store, 10)
            second.signal(number)
            await asyncio.sleep(0.3)
            figures = await primary.leave(first.qmp, lockstep)
            assert figures["total"] < PROMPT_MS
            await more(talker, store)
            await first.qmp.execute("block-job-set-speed", {"device": plan.job(0), "speed": 0})
            await snapshots.finish(first.qmp, plan)
            assert await nothing_is_left(first)
            await pair.kill(second)
            _third, _ = await protect(pair, first)
            await more(talker, store)
        folder = image_of(first, plan, tmp_path)
        assert await store.audit() == []
    assert await lost_in(folder, before) == []


async def test_the_primary_dies_or_gives_way_in_the_middle() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            second, lockstep = await protect(pair, first)
            plan = SnapshotPlan(disks=1, copy_bytes_per_s=SLOW)
            await begin(pair, first, plan)
            copying = asyncio.create_task(snapshots.finish(first.qmp, plan))
            await more(talker, store, 10)
            await pair.kill(first)
            with pytest.raises(QmpError):
                await copying
            await pair.take_over(second, lockstep)
            await more(talker, store)
            await pair.settle(second, lockstep)
            assert await nothing_is_left(second)

            third, lockstep = await protect(pair, second)  # a promoted one's disk lies elsewhere
            await begin(pair, second, plan)
            await more(talker, store, 10)
            await pair.switch(second, third, lockstep)
            await more(talker, store)
            await pair.kill(second)
            await pair.settle(third, lockstep)
            await more(talker, store)
        assert await store.audit() == []


async def test_a_full_copy_breaks_the_snapshot_and_nothing_else() -> None:
    async with Pair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            await protect(pair, first)
            plan = SnapshotPlan(disks=1)
            room = (first.folder / "disk0.qcow2").stat().st_size + 4 * MIB  # enough for what the guest writes
            with broken_disk(first.pid, room):
                await begin(pair, first, plan)
                with pytest.raises(SnapshotError):
                    await snapshots.finish(first.qmp, plan)
                await snapshots.end(first.qmp, plan)
                assert await nothing_is_left(first)
                await more(talker, store)
            assert (await inspect(first.qmp)).role is LiveRole.PRIMARY
        assert await store.audit() == []
