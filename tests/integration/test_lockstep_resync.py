"""What a resync copies, and that both disks are equal afterwards, block by block, while the guest writes."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lockstep_clients import Store, Talker, load, wait_for
from lockstep_support import MIB, Copy, Pair, missing

from hostagent.drivers.disk.copy import DiskSet, DiskSource, older_copy
from hostagent.drivers.process.users import own_by, owner_of
from hostagent.drivers.qemu import kept, primary
from hostagent.drivers.qemu.entry import EntryFailedError
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.drivers.qemu.resync import CopyFigures
from vdc.model.errors import ConflictError

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

BASES = (True, False)  # the first disk comes from an image, the second is an empty one
SOURCES = (DiskSource(None, "disk.qcow2"), None)


class ResyncPair(Pair):
    """A pair with two disks whose secondaries have the image's base below them, or are older copies."""

    def __init__(self) -> None:
        super().__init__(disks=2)
        self.older: Copy | None = None

    async def _make_disks(self, disks: DiskSet, role: str) -> Any:
        if role == "primary":
            return await super()._make_disks(disks, role)
        if self.older is None:
            sizes = await self.copies[0].disks.virtual_sizes()
            return await disks.create_secondary(self.uid, self.epoch + 1, sizes, SOURCES)
        folder = self.folder / f"q{len(list(self.folder.iterdir()))}"
        for path in [self.older.folder / "copy.json", *self.older.folder.glob("parent?.qcow2")]:
            shutil.copy(path, folder / path.name)
        own_by(folder, owner_of(folder))
        return await disks.reuse_older(self.epoch + 1)

    async def keep(self, prime: Copy, second: Copy, plan: LockstepPlan) -> str:
        """End the lockstep in order; the secondary's disks stay. Returns the name of the primary's record."""
        name = kept.bitmap_name(second.name, self.epoch)
        await kept.begin(prime.qmp, self.disks, name)
        await self.whole_checkpoint(prime)
        await primary.leave(prime.qmp, plan)
        await second.qmp.execute("stop", deadline_s=10)
        await self.kill(second)
        await second.disks.keep_older()
        self.older = second
        return name

    async def whole_checkpoint(self, prime: Copy) -> None:
        before = prime.meter.count
        await wait_for(lambda: prime.meter.count >= before + 2, "a whole checkpoint", 10)

    async def enter(self, prime: Copy, **changes: Any) -> tuple[Copy, LockstepPlan, primary.EntryReport]:
        second = await self.start_secondary()
        plan, report = await self.protect(prime, second, bases=BASES, **changes)
        await self.in_sync(prime, second)
        return second, plan, report

    async def assert_equal(self, prime: Copy, second: Copy, heads: tuple[str, str]) -> None:
        """Both copies end in mid-flight at a checkpoint's quiet moment; then every block is compared."""
        await primary.quiesce(prime.qmp)  # nothing of the guest is under way to either disk any more
        await second.qmp.execute("stop", deadline_s=10)
        for copy in (prime, second):
            await self.kill(copy)
        for i, head in enumerate(heads):
            theirs = f"theirs{i}.qcow2"
            shutil.copy(second.folder / f"parent{i}.qcow2", prime.folder / theirs)
            own_by(prime.folder, owner_of(prime.folder))
            await prime.disks._tool._run(
                "compare", "-q", "-f", "qcow2", "-F", "qcow2", f"/vm/{head}", f"/vm/{theirs}", deadline_s=120
            )


async def more(talker: Talker, store: Store, count: int = 40) -> None:
    target = len(store.acknowledged) + count
    await wait_for(lambda: len(store.acknowledged) >= target or bool(store.failure), "writes", 30)
    assert not store.failure
    assert not talker.failure


OWN = ("disk0.qcow2", "disk1.qcow2")
PARENTS = ("parent0.qcow2", "parent1.qcow2")


async def test_the_base_is_not_copied_and_both_disks_are_equal() -> None:
    async with ResyncPair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            await more(talker, store)
            second, _, _report = await pair.enter(first)
            await more(talker, store)
        own_bytes = (first.folder / "disk0.qcow2").stat().st_size
        their_bytes = (second.folder / "parent0.qcow2").stat().st_size
        assert their_bytes < 2 * own_bytes
        await pair.assert_equal(first, second, OWN)


async def test_an_older_copy_is_brought_up_to_date() -> None:
    async with ResyncPair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            second, plan, _full = await pair.enter(first)
            await more(talker, store)
            name = await pair.keep(first, second, plan)
            await more(talker, store)
            third, plan, report = await pair.enter(first, changes_since=name)
            assert report.disk_bytes < 2 * MIB
            assert name in await kept.kept(first.qmp, pair.disks)  # records live on in lockstep
            await more(talker, store)
            name = await pair.keep(first, third, plan)  # and once more, of the copy that was resynced
            await more(talker, store)
            fourth, _, _ = await pair.enter(first, changes_since=name)
            await more(talker, store)
        await pair.assert_equal(first, fourth, OWN)
        assert await older_is_refused(third)


async def older_is_refused(copy: Copy) -> bool:
    """Whether the kept disks are never booted (I7)."""
    assert older_copy(copy.folder) is not None
    with pytest.raises(ConflictError) as caught:
        await copy.disks.bootable("6f1f2a8e-5a5c-4a39-9d5e-0c6f1e0f7a01")
    return caught.value.code == "disk-older"


async def test_a_promoted_vm_resyncs_its_old_secondary_too() -> None:
    async with ResyncPair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            second, plan, _ = await pair.enter(first)
            await pair.kill(first)
            await pair.take_over(second, plan)
            await pair.settle(second, plan)
            await more(talker, store)
            third, plan, _ = await pair.enter(second)
            await more(talker, store)
            name = await pair.keep(second, third, plan)
            await more(talker, store)
            fourth, _, report = await pair.enter(second, changes_since=name)
            assert report.disk_bytes < 2 * MIB
            await more(talker, store)
        await pair.assert_equal(second, fourth, PARENTS)
        # The guest's own view of what it acknowledged is in test_lockstep_pair.


SLOW, QUICK = MIB // 8, 8 * MIB  # bytes per second
PHASES = (("disk", 0.0, SLOW), ("disk", 0.3, SLOW), ("memory", 0.0, QUICK), ("memory", 0.9, QUICK))


async def test_a_crash_in_any_phase_costs_the_older_copy_and_nothing_else() -> None:
    async with ResyncPair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        async with load(pair) as (talker, store):
            for what, share, speed in PHASES:
                pair.older = None
                second, plan, _ = await pair.enter(first)
                await more(talker, store, 10)
                name = await pair.keep(first, second, plan)
                await more(talker, store, 10)
                await crash(pair, first, name, what, share, speed)
                await kept.drop(first.qmp, pair.disks, name)
                await more(talker, store, 10)
            pair.older = None
            last, _, _ = await pair.enter(first)
            await more(talker, store)
        await pair.assert_equal(first, last, OWN)


async def crash(pair: ResyncPair, prime: Copy, name: str, what: str, share: float, speed: int) -> None:
    """Kill the secondary in that phase of being brought up to date."""
    second = await pair.start_secondary()
    killed: list[float] = []

    def look(figures: CopyFigures) -> None:
        done = figures.done_bytes / figures.total_bytes if figures.total_bytes else 1.0
        if figures.what == what and done >= share and not killed:
            killed.append(time.monotonic())
            second.signal(signal.SIGKILL)

    pair.epoch += 1
    plan = pair.plan(prime, bases=BASES, changes_since=name, copy_bytes_per_s=speed)
    await pair.prepare(prime, second, plan)
    with pytest.raises((EntryFailedError, QmpError)):
        await pair.enter_plan(prime, plan, figures=look, deadline_s=20)
    assert killed
    record = await second.disks.load()
    assert record is not None and record.state == "dirty"
    await pair.kill(second)


async def test_a_limit_limits_and_progress_is_told_in_bytes() -> None:
    async with ResyncPair() as pair:
        first = await pair.start_primary()
        await pair.guest_is_up()
        seen: list[CopyFigures] = []
        second = await pair.start_secondary()
        pair.epoch += 1
        plan = pair.plan(first, bases=BASES, copy_bytes_per_s=32 * MIB)
        await pair.prepare(first, second, plan)
        began = time.monotonic()
        report = await pair.enter_plan(first, plan, figures=seen.append)
        took_s = time.monotonic() - began
        assert report.copied_bytes - report.disk_bytes < 1.5 * 32 * MIB * took_s
        assert took_s > 1.5
        assert {figures.what for figures in seen} == {"disk", "memory"}
        assert all(figures.done_bytes <= figures.total_bytes for figures in seen)
        await wait_for(lambda: first.meter.count >= 3, "checkpoints", 15)
