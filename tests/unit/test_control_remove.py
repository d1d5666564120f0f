"""A host that is gone for good is removed, with what only it had; one that may be needed is not."""

from __future__ import annotations

import pytest
from drain_support import ALONE, cluster
from protection_world import endophyte

from vdc.model.errors import ConflictError, RefusedError
from vdc.store import keys
from vdc.store.protocol import Delete

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
