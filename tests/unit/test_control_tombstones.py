"""What remains of a deleted VM, and how a copy goes that the cluster does not know."""

from __future__ import annotations

import pytest
from protection_world import observed
from test_control_desired import World

from vdc.control import tombstones
from vdc.control.clock import SystemClock
from vdc.control.tombstones import bury, tombstone
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.store import keys
from vdc.store.protocol import Delete, Put


def test_the_oldest_are_forgotten(monkeypatch):
    monkeypatch.setattr(tombstones, "MOST", 3)
    known = {"b": "2026-02-01", "a": "2026-01-01", "c": "2026-03-01"}
    assert tombstone("d", "2026-04-01", known) == [
        Put(keys.deleted("d"), "2026-04-01"), Delete(keys.deleted("a")),
    ]  # fmt: skip


@pytest.fixture
async def world():
    made = World()
    seen = observed("h2", CopyRole.PRIMARY, CopyStage.RUNNING, uid="lost", name="old")
    await made.put((keys.observed("old", "h2"), seen.to_json()))
    await made.mirror.read_all()
    return made


async def test_a_copy_that_nobody_knows_goes_when_it_is_deleted_by_name(world):
    assert world.mirror.is_orphan("old", "lost")
    assert await bury(world.store, world.mirror, "old", SystemClock()) == ("h2",)
    await world.mirror.read_all()
    assert not world.mirror.is_orphan("old", "lost")
    assert await bury(world.store, world.mirror, "old", SystemClock()) == ()


async def test_a_name_that_no_host_has_is_not_found(world):
    assert await bury(world.store, world.mirror, "never", SystemClock()) == ()
