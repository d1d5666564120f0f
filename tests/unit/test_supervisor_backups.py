"""Copies that are held for somebody to read: one at a time, closed when the last reader is gone, given up when left."""

from __future__ import annotations

import asyncio
import io
from types import SimpleNamespace

import pytest

from hostagent.supervisor import backups
from hostagent.supervisor.backups import STUCK_S, UNREAD_S, Backups
from vdc.model.endophyte import CopyRole
from vdc.model.errors import ConflictError, InvalidError, NotFoundError


class Clock:
    now_s = 1000.0

    def boottime_s(self):
        return self.now_s

    def wall(self):
        return "2026-01-31T23:59:59.000000Z"


class Taken:
    """In place of Snapshots: no disks here. What is asked for `may_end` at once, unless a test forbids that."""

    def __init__(self):
        self.asked = []
        self.called_off = []
        self.files = []
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def copy_out(self, name, *, quiesce, marks):
        self.asked.append((name, quiesce, marks))
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.called_off.append(name)
            raise
        self.files.append(io.BytesIO(b"disk"))
        return SimpleNamespace(epoch=1, is_quiesced=quiesce, was_running=False), [self.files[-1]]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def taken():
    return Taken()


@pytest.fixture
async def work(clock, taken, tmp_path):
    told = []

    async def tell(*about, **_more):
        told.append(about)

    entry = SimpleNamespace(value=SimpleNamespace(image="image"))
    mirror = SimpleNamespace(endophyte=lambda name: SimpleNamespace(image_digest="d"), images={"d": entry})
    host = SimpleNamespace(name="h1", clock=clock, mirror=mirror, vms_dir=tmp_path, tell=tell, told=told)
    copy = SimpleNamespace(
        name="web", host=host, qmp=None, is_alive=False,
        state=SimpleNamespace(role=CopyRole.PRIMARY, machine=None),
    )  # fmt: skip
    made = Backups(copy, taken)
    made.told = told
    yield made
    await made.close()


async def test_a_copy_is_held_until_it_is_given_up(work, taken):
    held = await work.begin(quiesce=True, since="")
    assert held.id.startswith("20260131-235959-") and held.full_because
    assert taken.asked[0][:2] == (f"backup-{held.id}", True)
    with work.reading(held.id, 0) as file:
        assert file.read() == b"disk"
    for disk in (1, -1):
        with pytest.raises(NotFoundError), work.reading(held.id, disk):
            pass
    await work.end(held.id, is_kept=True)
    assert taken.files[0].closed and work.told[0][1] == "backup-taken"
    with pytest.raises(NotFoundError) as caught:
        work.find(held.id)
    assert caught.value.code == "backup-gone"


async def test_the_last_reader_closes_what_was_given_up(work, taken):
    held = await work.begin(quiesce=False, since="")
    with work.reading(held.id, 0) as file:
        with work.reading(held.id, 0):
            await work.end(held.id, is_kept=False)
            assert not file.closed
        assert not file.closed, "the other one still reads"
    assert file.closed and not work.told


async def test_one_at_a_time_unless_nobody_reads_it(work, taken, clock):
    held = await work.begin(quiesce=False, since="")
    with pytest.raises(ConflictError) as caught:
        await work.begin(quiesce=False, since="")
    assert caught.value.code == "backup-busy"
    clock.now_s += STUCK_S  # nobody is cut off before
    with work.reading(held.id, 0), pytest.raises(ConflictError):
        await work.begin(quiesce=False, since="")
    clock.now_s += STUCK_S + 1  # it writes what it read last, and goes on with another disk
    with pytest.raises(ConflictError):
        await work.begin(quiesce=False, since="")
    clock.now_s += 31
    assert (await work.begin(quiesce=False, since="")).id != held.id
    assert taken.files[0].closed and not taken.files[1].closed


async def _asked(work, taken):
    """Somebody who has asked for a copy, which is being made."""
    task = asyncio.create_task(work.begin(quiesce=False, since=""))
    async with asyncio.timeout(5):
        while not taken.asked:
            await asyncio.sleep(0)
    return task


async def test_what_nobody_waits_for_any_more_is_called_off(work, taken):
    taken.may_end.clear()
    task = await _asked(work, taken)
    task.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait({task})
        await asyncio.wait({work._making})
    assert taken.called_off == [taken.asked[0][0]] and not taken.files
    taken.may_end.set()
    assert work.find((await work.begin(quiesce=False, since="")).id)


async def test_what_nobody_heard_of_is_in_nobodys_way(work, taken):
    """The copy was complete, and its id not yet said, when whoever asked went away."""
    taken.may_end.clear()
    task = await _asked(work, taken)
    making = work._making
    making.add_done_callback(lambda _: task.cancel())
    taken.may_end.set()
    async with asyncio.timeout(5):
        await asyncio.wait({making})
        with pytest.raises(asyncio.CancelledError):
            await task
        again = await work.begin(quiesce=False, since="")
    assert taken.files[0].closed and work.find(again.id)


async def test_what_is_being_made_ends_with_the_agent(work, taken):
    taken.may_end.clear()
    task = await _asked(work, taken)
    async with asyncio.timeout(5):
        await work.close()
        with pytest.raises(ConflictError) as caught:
            await task
    assert caught.value.code == "overtaken" and taken.called_off


async def test_what_nobody_reads_goes(work, taken, clock, monkeypatch):
    looked = asyncio.Event()

    async def sleep(_seconds, real=asyncio.sleep):
        looked.set()
        await real(0)

    monkeypatch.setattr(backups.asyncio, "sleep", sleep)
    held = await work.begin(quiesce=False, since="")
    await looked.wait()
    assert work.find(held.id) is held
    clock.now_s += UNREAD_S + 1
    await held.watching
    assert taken.files[0].closed


async def test_what_since_names_is_an_id(work):
    with pytest.raises(InvalidError):
        await work.begin(quiesce=False, since="../x")
    held = await work.begin(quiesce=False, since="20260101-000000-0000")
    assert not held.since and "does not run" in held.full_because
