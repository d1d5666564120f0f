"""One copy to a secondary per host, longest unprotected first, nobody for ever last: 50 VMs after a host has died."""

from __future__ import annotations

import pytest
from protection_world import endophyte, host, observed, pair
from test_control_controller import Cluster

from vdc.control.events import read_events
from vdc.control.turns import Turns
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.pair import OlderCopy, SyncState
from vdc.model.units import GIB
from vdc.protection.arbitration import go_alone, mark_in_sync
from vdc.store import keys

COUNT = 50
HOSTS = ("h1", "h2", "h3", "h4")


def names():
    return [f"vm{number:02}" for number in range(COUNT)]


class Crowd(Cluster):
    """Four hosts, and 50 VMs that have just lost their secondaries, the last of them first."""

    async def fill(self):
        await super().fill()
        await self.put(
            *((keys.host(name), host(name, memory=512 * GIB).to_json()) for name in HOSTS),
            *((keys.liveness(name), "i") for name in HOSTS),
        )
        for number, name in enumerate(names()):
            uid = f"uid-{name}"
            alone = pair(
                3, name=name, uid=uid, primary=HOSTS[number % 3], secondary=None, spares=(), slot=number
            )
            alone = alone.with_(unprotected_since=f"2026-01-01T00:00:{COUNT - number:02}Z")
            await self.put(
                (keys.endophyte(name), endophyte(name, uid=uid).to_json()),
                (keys.pair(name), alone.to_json()),
                (keys.observed(name, alone.primary), self.running(alone)),
            )
        return self

    def running(self, present):
        says = observed(present.primary, CopyRole.PRIMARY, CopyStage.RUNNING, epoch=present.epoch)
        return says.with_(name=present.name, uid=present.uid).to_json()

    def syncing(self):
        return {
            name: found.value
            for name, found in self.mirror.pairs.items()
            if found.value.sync is SyncState.SYNCING
        }

    async def copied(self, present):
        await self.put((keys.pair(present.name), mark_in_sync(present, request_id="r", now="n").to_json()))

    async def lost(self, present):
        alone = go_alone(present, reason="-", request_id="r", now="2026-01-01T00:09:00Z")
        await self.put((keys.pair(alone.name), alone.to_json()))
        await self.put((keys.observed(alone.name, alone.primary), self.running(alone)))


@pytest.fixture
async def crowd():
    return await Crowd().fill()


async def test_every_host_is_in_one_copy_at_most_and_all_get_their_turn(crowd):
    order = []
    for _ in range(3 * COUNT):
        await crowd.reconcile()
        busy = [host_name for present in crowd.syncing().values() for host_name in present.hosts]
        assert len(busy) == len(set(busy)), busy
        begun = crowd.syncing()
        if not begun:
            break
        order += [name for name in begun if name not in order]
        await crowd.copied(min(begun.values(), key=lambda present: present.name))
    assert sorted(order) == names()
    assert set(order[:2]) == set(names()[-2:])  # the longest unprotected: four hosts take two at once


async def test_the_longest_unprotected_goes_first_where_all_need_the_same_host(crowd):
    for name in names():
        await crowd.put((keys.pair(name), crowd.mirror.pair(name).with_(primary="h1").to_json()))
        await crowd.put((keys.observed(name, "h1"), crowd.running(crowd.mirror.pair(name))))
    order = []
    for _ in names():
        await crowd.reconcile()
        (present,) = crowd.syncing().values()
        order.append(present.name)
        await crowd.copied(present)
    assert order == list(reversed(names()))


async def test_one_that_fails_again_and_again_does_not_hold_the_others_up(crowd):
    bad = names()[-1]
    done = set()
    for _ in range(4 * COUNT):
        await crowd.reconcile()
        crowd.clock.now += 5
        for name, present in crowd.syncing().items():
            if name == bad:
                await crowd.lost(present)
            else:
                done.add(name)
                await crowd.copied(present)
    assert done == set(names()[:-1])


async def test_a_copy_whose_primary_is_silent_holds_nobody_up():
    stuck = pair(2, name="stuck", primary="h9", secondary="h2", sync=SyncState.SYNCING)
    turns = Turns()
    assert turns.busy_hosts({"stuck": stuck}, {"h1", "h2"}) == frozenset()
    assert turns.busy_hosts({"stuck": stuck}, {"h9", "h2"}) == {"h9", "h2"}


async def test_what_was_just_begun_counts_before_the_mirror_shows_it():
    alone = pair(3, secondary=None)
    begun = alone.with_(epoch=4, secondary="h2", sync=SyncState.SYNCING)
    turns = Turns()
    turns.began(begun)
    assert turns.busy_hosts({"web": alone}, {"h1", "h2"}) == {"h1", "h2"}
    failed = begun.with_(epoch=5, secondary=None, sync=SyncState.NONE)
    assert turns.busy_hosts({"web": failed}, {"h1", "h2"}) == frozenset()


async def test_the_first_in_the_queue_keeps_its_hosts_free():
    turns = Turns()
    turns.reserve("h1", "h2")
    turns.reserve("h3", "h4")
    assert turns.busy_hosts({}, set(HOSTS)) == {"h1", "h2"}
    turns.in_turn((), {}, 0.0)
    assert turns.busy_hosts({}, set(HOSTS)) == frozenset()


async def test_waiting_is_said_once_and_is_no_warning(crowd):
    await crowd.reconcile()
    await crowd.reconcile()
    said = [event for event in await read_events(crowd.store) if event.code == "resync-queued"]
    assert len(said) == len({event.name for event in said}) == COUNT - len(crowd.syncing())
    assert {event.severity.value for event in said} == {"Normal"}


async def test_a_host_that_keeps_an_older_copy_is_preferred_while_the_primary_has_the_record():
    cluster = await Cluster().fill()
    older = OlderCopy(host="h3", epoch=2)
    alone = pair(3, secondary=None, spares=("h2", "h3")).with_(older=(older,))
    for known, chosen in (((), "h2"), ((older.record_name,), "h3")):
        await cluster.put((keys.endophyte("web"), endophyte().to_json()), (keys.pair("web"), alone.to_json()))
        says = observed("h1", CopyRole.PRIMARY, CopyStage.RUNNING, epoch=3, older=known)
        await cluster.put((keys.observed("web", "h1"), says.to_json()))
        cluster.controller._turns = Turns()
        await cluster.reconcile()
        assert (await cluster.pair()).secondary == chosen


async def test_one_that_left_in_order_is_not_left_alone_for_a_while():
    cluster = await Cluster().fill()
    await cluster.with_running_primary()
    await cluster.reconcile()
    present = mark_in_sync(await cluster.pair(), request_id="r", now="n")
    await cluster.put((keys.pair("web"), present.to_json()))
    await cluster.reconcile()
    alone = go_alone(present, reason="-", request_id="r", now="n", keep_copy=True)
    assert alone.keeps_older("h2", present.epoch)
    await cluster.put((keys.pair("web"), alone.to_json()))
    says = observed("h1", CopyRole.PRIMARY, CopyStage.RUNNING, epoch=3, older=(alone.older[0].record_name,))
    await cluster.put((keys.observed("web", "h1"), says.to_json()))
    await cluster.reconcile()
    assert (await cluster.pair()).secondary == "h2"
