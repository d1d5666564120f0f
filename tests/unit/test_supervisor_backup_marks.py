"""Which marks of a guest's writes stay in QEMU, so that each repository goes on from its own last backup."""

from __future__ import annotations

import io
from itertools import count
from types import SimpleNamespace

import pytest

from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.marks import MOST, mark_name, why_unknown
from hostagent.supervisor.backups import Backups
from vdc.model.endophyte import CopyRole


class Qemu:
    """One disk's dirty bitmaps."""

    def __init__(self):
        self.found = []

    async def execute(self, command, arguments=None, *, deadline_s=2.0):
        if command == Command.BLOCK_DIRTY_BITMAP_REMOVE:
            return self.found.remove(arguments["name"])
        assert command == Command.QUERY_NAMED_BLOCK_NODES
        bitmaps = [{"name": name, "recording": True, "count": 1} for name in self.found]
        return [{"node-name": "disk0", "dirty-bitmaps": bitmaps}]

    async def copy_out(self, name, *, quiesce, marks):
        """In place of Snapshots, whose transaction begins the mark."""
        assert not marks.since or marks.since in self.found
        self.found.append(marks.begin)
        return SimpleNamespace(epoch=1, is_quiesced=quiesce, was_running=False, memory=None), [
            io.BytesIO(b"disk")
        ]


@pytest.fixture
def qemu():
    return Qemu()


@pytest.fixture
async def work(qemu, tmp_path):
    async def tell(*_about, **_more):
        return None

    seconds = count()
    clock = SimpleNamespace(
        boottime_s=lambda: 0.0, wall=lambda: f"2026-01-31T23:{next(seconds):02}:00.000000Z"
    )
    mirror = SimpleNamespace(
        endophyte=lambda name: SimpleNamespace(image_digest="d"),
        images={"d": SimpleNamespace(value=SimpleNamespace(image="image"))},
    )
    host = SimpleNamespace(name="h1", clock=clock, mirror=mirror, vms_dir=tmp_path, tell=tell)
    copy = SimpleNamespace(
        name="web", host=host, qmp=qemu, is_alive=True, session=lambda: qemu,
        state=SimpleNamespace(role=CopyRole.PRIMARY, machine=SimpleNamespace(disk_sizes_bytes=(1,))),
    )  # fmt: skip
    made = Backups(copy, qemu)
    yield made
    await made.close()


async def taken(work, since="", *, is_kept=True):
    held = await work.begin(quiesce=False, since=since)
    await work.end(held.id, is_kept=is_kept)
    return held


async def test_a_repository_that_is_used_often_takes_no_other_ones_mark(work, qemu):
    weekly = (await taken(work)).id
    nightly = (await taken(work)).id
    for _ in range(3 * MOST):
        held = await taken(work, nightly)
        assert held.since == nightly
        nightly = held.id
        assert qemu.found == [mark_name(weekly), mark_name(nightly)]
    assert (await taken(work, weekly)).since == weekly


async def test_as_many_repositories_as_there_are_marks_go_on(work, qemu):
    last = [(await taken(work)).id for _ in range(MOST)]
    for _ in range(2):
        held = [await taken(work, since) for since in last]
        assert [one.since for one in held] == last
        last = [one.id for one in held]
    assert len(qemu.found) == MOST


async def test_a_backup_that_fails_costs_no_mark(work, qemu):
    last = [(await taken(work)).id for _ in range(MOST)]
    await taken(work, last[0], is_kept=False)
    await taken(work, is_kept=False)
    assert qemu.found == [mark_name(one) for one in last]


async def test_a_mark_that_gave_way_is_named_as_the_reason(work, qemu):
    first = (await taken(work)).id
    for _ in range(MOST):
        await taken(work)
    assert mark_name(first) not in qemu.found
    held = await taken(work, first)
    assert not held.since and f"gave way to those of {MOST} later ones" in held.full_because
    qemu.found.clear()
    assert (await taken(work, first)).full_because.endswith("the VM was restarted, or changed its host")


def test_a_qemu_that_has_an_older_mark_was_not_restarted():
    why = why_unknown("20260102-000000-0000", [mark_name("20260101-000000-0000")])
    assert "not known" in why and "restarted" not in why
