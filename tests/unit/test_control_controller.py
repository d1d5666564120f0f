"""The leader's loop over a store in memory: placing, protecting, spares, deletion, back-off."""

from __future__ import annotations

import asyncio

import pytest
from protection_world import endophyte, host, observed, pair
from test_control_desired import World

from hostagent.server.views import endophyte_view
from vdc.control import controller
from vdc.control.controller import Controller
from vdc.control.events import EventLog, read_events
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.pair import Pair, SyncState
from vdc.store import keys
from vdc.store.protocol import Delete


class SettableClock:
    def __init__(self):
        self.now = 1000.0

    def boottime_s(self):
        return self.now

    def wall(self):
        return f"2026-01-01T00:00:{self.now % 60:09.6f}Z"


class Cluster(World):
    """A World with a leader in it."""

    def __init__(self):
        super().__init__()
        self.clock = SettableClock()
        self.controller = Controller(
            self.store, self.mirror, EventLog(self.store, "h1", self.clock), self.clock,
            backoff_s=30.0, report=lambda sentence: None,
        )  # fmt: skip

    async def reconcile(self):
        await self.mirror.read_all()
        await self.controller.reconcile()
        await self.mirror.read_all()

    async def pair(self):
        item = await self.store.get(keys.pair("web"))
        return Pair.from_json(item.value) if item else None

    async def with_running_primary(self, **changes):
        await self.put((keys.endophyte("web"), endophyte(**changes).to_json()))
        await self.reconcile()
        present = await self.pair()
        await self.says(present.primary, CopyRole.PRIMARY, CopyStage.RUNNING, present.epoch)
        return present

    async def says(self, host_name, role, stage, epoch):
        await self.put(
            (keys.observed("web", host_name), observed(host_name, role, stage, epoch=epoch).to_json())
        )


@pytest.fixture
async def cluster():
    return await Cluster().fill()


async def test_a_new_endophyte_is_placed_alone_at_epoch_one(cluster):
    await cluster.put((keys.endophyte("web"), endophyte().to_json()))
    await cluster.reconcile()
    present = await cluster.pair()
    assert (present.epoch, present.primary, present.secondary, present.spares) == (
        1,
        "h1",
        None,
        ("h2", "h3"),
    )


async def test_it_gets_a_secondary_only_when_it_runs_under_the_present_epoch(cluster):
    await cluster.put((keys.endophyte("web"), endophyte().to_json()))
    await cluster.reconcile()
    await cluster.says("h1", CopyRole.PRIMARY, CopyStage.PREPARING, 1)
    await cluster.reconcile()
    assert (await cluster.pair()).secondary is None
    await cluster.says("h1", CopyRole.PRIMARY, CopyStage.RUNNING, 1)
    await cluster.reconcile()
    present = await cluster.pair()
    assert (present.epoch, present.secondary, present.sync, present.spares) == (
        2,
        "h2",
        SyncState.SYNCING,
        ("h3",),
    )


async def test_passes_repeat_without_effect(cluster):
    await cluster.with_running_primary()
    await cluster.reconcile()
    before = await cluster.pair()
    await cluster.reconcile()
    assert await cluster.pair() == before


async def test_a_host_that_failed_as_secondary_is_left_alone_for_a_while(cluster):
    await cluster.with_running_primary()
    await cluster.reconcile()
    lost = await cluster.pair()
    alone = lost.with_(epoch=3, secondary=None, sync="none", spares=("h3", lost.secondary))
    await cluster.put((keys.pair("web"), alone.to_json()))
    await cluster.says("h1", CopyRole.PRIMARY, CopyStage.RUNNING, 3)
    await cluster.put((keys.host("h3"), host("h3", schedulable=False).to_json()))
    await cluster.reconcile()
    assert (await cluster.pair()).secondary is None
    cluster.clock.now += 31
    await cluster.reconcile()
    assert (await cluster.pair()).secondary == "h2"


async def test_a_secondary_is_not_blamed_for_the_death_of_the_primarys_agent(cluster):
    """An agent that died while it protected undoes that when it is back; the secondary has done nothing wrong."""
    await cluster.with_running_primary()
    await cluster.reconcile()
    lost = await cluster.pair()
    await cluster.put((keys.host("h1"), host("h1").with_(incarnation=2).to_json()))
    alone = lost.with_(epoch=3, secondary=None, sync="none", spares=("h3", lost.secondary))
    await cluster.put((keys.pair("web"), alone.to_json()))
    await cluster.says("h1", CopyRole.PRIMARY, CopyStage.RUNNING, 3)
    await cluster.put((keys.host("h3"), host("h3", schedulable=False).to_json()))
    await cluster.reconcile()
    assert (await cluster.pair()).secondary == lost.secondary


async def lose_secondary(cluster, *, was_in_sync=True):
    """The primary goes on alone; nobody but the secondary that was lost is left."""
    await cluster.put((keys.host("h3"), host("h3", schedulable=False).to_json()))
    present = await cluster.pair()
    if was_in_sync:
        await cluster.put((keys.pair("web"), present.with_(sync="in_sync").to_json()))
        await cluster.reconcile()
    alone = present.with_(epoch=present.epoch + 1, secondary=None, sync="none", spares=(present.secondary,))
    await cluster.put((keys.pair("web"), alone.to_json()))
    await cluster.says("h1", CopyRole.PRIMARY, CopyStage.RUNNING, alone.epoch)
    await cluster.reconcile()


async def seconds_until_protected(cluster):
    for seconds in range(1_000):
        if (await cluster.pair()).secondary is not None:
            return seconds
        cluster.clock.now += 1
        await cluster.reconcile()
    raise AssertionError("never")


async def test_one_that_had_been_in_sync_is_tried_again_soon_and_then_less_and_less(cluster):
    await cluster.with_running_primary()
    await cluster.reconcile()
    waits = []
    for _ in range(4):
        await lose_secondary(cluster)
        waits.append(await seconds_until_protected(cluster))
    assert waits == [5, 10, 20, 40]
    cluster.clock.now += 700
    await lose_secondary(cluster)
    assert await seconds_until_protected(cluster) == 5, "long ago"


async def test_one_that_was_never_in_sync_is_left_alone_for_longer(cluster):
    await cluster.with_running_primary()
    await cluster.reconcile()
    await lose_secondary(cluster, was_in_sync=False)
    assert await seconds_until_protected(cluster) == 30


async def test_nobody_is_tried_whom_the_primary_does_not_hear(cluster):
    running = await cluster.with_running_primary()
    deaf = observed("h1", CopyRole.PRIMARY, CopyStage.RUNNING, epoch=1).with_(unreachable=("h2", "h3"))
    await cluster.put((keys.observed("web", "h1"), deaf.to_json()))
    await cluster.reconcile()
    assert (await cluster.pair()).secondary is None
    shown = endophyte_view(cluster.mirror, cluster.mirror.endophyte("web"))
    assert "do not hear each other" in shown.status.sentence
    await cluster.put((keys.observed("web", "h1"), deaf.with_(unreachable=("h2",)).to_json()))
    await cluster.reconcile()
    assert (await cluster.pair()).secondary == "h3"
    assert running.primary == "h1"


async def test_after_a_promotion_nobody_is_backing_off(cluster):
    await cluster.with_running_primary()
    await cluster.reconcile()
    promoted = pair(epoch=3, primary="h2", secondary=None, spares=("h3", "h1"))
    await cluster.put((keys.pair("web"), promoted.to_json()))
    await cluster.says("h2", CopyRole.PRIMARY, CopyStage.RUNNING, 3)
    await cluster.reconcile()
    assert (await cluster.pair()).secondary == "h3"


async def test_a_dead_hosts_vm_is_not_started_elsewhere(cluster):
    """Silence is no proof of death (I5): nobody knows that the old copy has stopped."""
    await cluster.with_running_primary(protect=False)
    await cluster.store.commit([], [Delete(keys.liveness("h1"))])
    await cluster.reconcile()
    assert (await cluster.pair()).primary == "h1"


async def test_deletion_waits_for_the_disks_and_then_leaves_nothing(cluster):
    await cluster.with_running_primary()
    await cluster.put((keys.endophyte("web"), endophyte(deleting=True).to_json()))
    await cluster.reconcile()
    assert await cluster.pair() is not None
    await cluster.says("h1", None, CopyStage.ABSENT, 1)
    await cluster.reconcile()
    assert not cluster.mirror.is_orphan("web", endophyte().uid), "a host that was away has to know"
    assert cluster.mirror.is_orphan("web", "another")
    left = [item.key for item in (await cluster.store.list(keys.ROOT)).items if "web" in item.key]
    assert [key for key in left if not key.startswith(keys.EVENTS)] == []
    assert [item.key for item in (await cluster.store.list(keys.SLOTS)).items] == []


async def test_why_there_is_no_secondary_is_said_once(cluster):
    for name in ("h2", "h3"):
        await cluster.put((keys.host(name), host(name, lockstep=False, version="7.2.0").to_json()))
    await cluster.with_running_primary()
    await cluster.reconcile()
    await cluster.reconcile()
    said = [event for event in await read_events(cluster.store) if event.code == "no-host"]
    assert len(said) == 1
    assert "cannot do lockstep" in said[0].sentence


async def test_two_endophytes_never_share_replication_ports(cluster):
    await cluster.put(
        (keys.endophyte("web"), endophyte().to_json()),
        (keys.endophyte("db"), endophyte("db", uid="other").to_json()),
    )
    await cluster.reconcile()
    await cluster.reconcile()
    slots = [found.value.slot for found in cluster.mirror.pairs.values()]
    assert sorted(slots) == [0, 1]


async def test_the_arbiter_is_looked_after_while_pass_follows_pass(cluster, monkeypatch):
    monkeypatch.setattr(controller, "PASS_EVERY_S", 0.001)
    looked, twice = [], asyncio.Event()

    async def keep_away():
        looked.append(len(looked))
        if len(looked) == 1:
            raise ValueError("a defect")
        twice.set()

    async def busy_pass():
        cluster.mirror._notify(keys.host("h1"))
        await asyncio.sleep(0)

    leader = Controller(
        cluster.store, cluster.mirror, EventLog(cluster.store, "h1", cluster.clock), cluster.clock,
        backoff_s=30.0, report=lambda sentence: None, keep_arbiter_away=keep_away,
    )  # fmt: skip
    leader.reconcile = busy_pass
    term = asyncio.create_task(leader.run())
    await asyncio.wait_for(twice.wait(), 30)
    assert not term.done()
    term.cancel()
    await asyncio.gather(term, return_exceptions=True)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "arbiter"]
