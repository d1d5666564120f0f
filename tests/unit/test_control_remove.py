"""A host that is gone for good is removed, with what only it had; one that may be needed is not."""

from __future__ import annotations

import pytest
from drain_support import ALONE, cluster
from protection_world import endophyte

from vdc.model.errors import ConflictError, RefusedError
from vdc.model.pair import SyncState
from vdc.store import keys
from vdc.store.protocol import Delete, Put

__all__ = ["cluster"]


async def test_a_host_that_is_gone_for_good_takes_its_vm_with_it_and_the_vm_can_be_deleted(cluster):
    await cluster.add("web", 1, **ALONE)
    with pytest.raises(ConflictError) as caught:
        await cluster.wishes.remove("h1", force=True)
    assert caught.value.code == "host-alive"
    await cluster.store.commit([], [Delete(keys.liveness("h1"))])
    await cluster.mirror.read_all()
    with pytest.raises(RefusedError) as refused:
        await cluster.wishes.remove("h1")
    assert refused.value.code == "vms-lost"
    wish = endophyte("web", uid="uid-1", deleting=True, **ALONE)
    await cluster.put((keys.endophyte("web"), wish.to_json()))
    await cluster.settle(2)
    assert cluster.of("web") is not None, "without the operator's word it may be alive"
    assert await cluster.wishes.remove("h1", force=True) == ("web",)
    await cluster.settle(2)
    assert cluster.of("web") is None
    left = [item.key for item in (await cluster.store.list(keys.ROOT)).items if "h1" in item.key]
    assert [key for key in left if not key.startswith(keys.EVENTS)] == []


async def test_half_a_copy_of_a_vm_that_is_lost_goes_too(cluster):
    await cluster.add("web", 1)
    syncing = cluster.of("web").with_(sync="syncing")
    await cluster.put((keys.pair("web"), syncing.to_json()))
    await cluster.store.commit([], [Delete(keys.liveness("h1"))])
    await cluster.mirror.read_all()
    assert await cluster.wishes.remove("h1", force=True) == ("web",)
    await cluster.mirror.read_all()
    pair = cluster.of("web")
    assert (pair.epoch, pair.hosts) == (syncing.epoch + 1, ("h1",))


async def test_a_host_whose_pair_can_go_on_is_not_removed_under_it(cluster):
    await cluster.add("web", 1)
    await cluster.store.commit([], [Delete(keys.liveness("h1"))])
    await cluster.mirror.read_all()
    with pytest.raises(ConflictError) as caught:
        await cluster.wishes.remove("h1", force=True)
    assert caught.value.code == "has-part"


async def test_two_hosts_that_are_gone_for_good_are_removed_the_replicas_first(cluster):
    await cluster.add("web", 1)
    before = cluster.of("web")
    await cluster.falls_silent("h1", "h2")
    with pytest.raises(ConflictError) as caught:
        await cluster.wishes.remove("h1", force=True)
    assert "vdc node remove h2 --force" in caught.value.problem.hint
    with pytest.raises(ConflictError) as unforced:
        await cluster.wishes.remove("h2")
    assert unforced.value.code == "has-part"
    await cluster.mirror.read_all()
    assert cluster.of("web") == before, "nothing is given up by a refusal"

    assert await cluster.wishes.remove("h2", force=True) == ()
    await cluster.mirror.read_all()
    after = cluster.of("web")
    assert (after.epoch, after.hosts, after.sync) == (before.epoch + 1, ("h1",), SyncState.NONE)
    assert "h2" not in (*after.spares, *cluster.mirror.hosts)
    assert await cluster.wishes.remove("h1", force=True) == ("web",)
    await cluster.mirror.read_all()
    assert set(cluster.mirror.hosts) == {"h3"}


async def test_of_two_hosts_with_each_others_replicas_no_vm_is_lost_before_both_are_declared_gone(cluster):
    await cluster.add("web", 1)
    other = cluster.of("web").with_(name="db", uid="uid-2", slot=1, primary="h2", secondary="h1")
    await cluster.put((keys.pair("db"), other.to_json()))
    await cluster.falls_silent("h1", "h2")
    with pytest.raises(ConflictError) as caught:
        await cluster.wishes.remove("h2", force=True)
    assert "the replica of db on h1 is complete" in str(caught.value)
    await cluster.mirror.read_all()
    assert (cluster.of("web").hosts, cluster.of("db")) == (("h1",), other)
    assert "h2" in cluster.mirror.hosts
    assert await cluster.wishes.remove("h1", force=True) == ("web",)
    await cluster.mirror.read_all()
    assert await cluster.wishes.remove("h2", force=True) == ("db",)


async def test_a_replica_is_not_given_up_while_the_primarys_host_lives(cluster):
    await cluster.add("web", 1)
    before = cluster.of("web")
    await cluster.falls_silent("h2")
    with pytest.raises(ConflictError) as caught:
        await cluster.wishes.remove("h2", force=True)
    assert caught.value.code == "has-part"
    await cluster.mirror.read_all()
    assert cluster.of("web") == before


async def test_a_primarys_host_that_comes_back_at_the_last_moment_keeps_its_replica(cluster):
    await cluster.add("web", 1)
    before = cluster.of("web")
    await cluster.falls_silent("h1", "h2")
    commit = cluster.store.commit

    async def late(compares, operations):
        await commit([], [Put(keys.liveness("h1"), "i")])
        return await commit(compares, operations)

    cluster.store.commit = late
    with pytest.raises(ConflictError) as caught:
        await cluster.wishes.remove("h2", force=True)
    assert caught.value.code == "host-alive"
    await cluster.mirror.read_all()
    assert cluster.of("web") == before
