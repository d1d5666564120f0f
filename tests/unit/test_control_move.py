"""A VM comes to the host that it shall run on, or stays where it is and says why."""

from __future__ import annotations

import pytest
from drain_support import ALONE, cluster

from vdc.model.errors import ConflictError, NotFoundError, RefusedError
from vdc.model.pair import SyncState
from vdc.protection.status import STOPPED_BY_DISK
from vdc.store import keys

__all__ = ["cluster"]


async def test_migrate_moves_the_replica_first_and_then_promotes_it(cluster):
    await cluster.add("web", 1)
    await cluster.wishes.move("web", "h3")
    await cluster.settle()
    pair = cluster.of("web")
    assert (pair.primary, cluster.wish_of("web").move) == ("h3", None)
    assert pair.sync is SyncState.IN_SYNC
    assert cluster.asked == ["web"]


async def test_migrate_refuses_what_makes_no_sense(cluster):
    await cluster.add("web", 1)
    with pytest.raises(ConflictError) as caught:
        await cluster.wishes.move("web", "h1")
    assert caught.value.code == "already-primary"
    with pytest.raises(NotFoundError):
        await cluster.wishes.move("web", "h9")
    await cluster.add("off", 2, run="stopped")
    with pytest.raises(ConflictError) as off:
        await cluster.wishes.move("off", "h2" if cluster.of("off").primary != "h2" else "h1")
    assert (off.value.code, off.value.problem.hint) == ("not-running", "vdc start off")
    await cluster.wishes.drain("h3", leave_stopped=True)
    await cluster.mirror.read_all()
    with pytest.raises(RefusedError) as refused:
        await cluster.wishes.move("web", "h3")
    assert "h3 is drained" in str(refused.value)
    assert cluster.of("web").sync is SyncState.IN_SYNC


async def test_a_move_whose_copy_fails_is_given_up_with_the_reason(cluster):
    await cluster.add("web", 1, **ALONE)
    await cluster.wishes.move("web", "h3")
    await cluster.step()
    pair = cluster.of("web")
    assert pair.secondary == "h3"
    alone = pair.with_(epoch=pair.epoch + 1, secondary=None, sync="none", reason="disk full on h3")
    await cluster.put((keys.pair("web"), alone.to_json()))
    await cluster.agents_act()
    await cluster.settle()
    wish = cluster.wish_of("web")
    assert wish.move is None
    assert "disk full on h3" in wish.move_problem
    assert cluster.of("web").hosts == ("h1",)
    assert "move-failed" in await cluster.codes("web")


async def test_a_target_that_is_drained_meanwhile_is_given_up(cluster):
    await cluster.add("web", 1, **ALONE)
    await cluster.wishes.move("web", "h3")
    await cluster.step()
    assert cluster.of("web").secondary == "h3"
    await cluster.wishes.drain("h3")
    await cluster.settle()
    assert cluster.of("web").hosts == ("h1",)
    assert cluster.wish_of("web").move_problem == "it cannot move to h3: h3 is drained"


async def test_a_wish_that_is_taken_back_leaves_the_vm_where_it_is(cluster):
    await cluster.add("web", 1, **ALONE)
    await cluster.wishes.move("web", "h3")
    await cluster.step()
    await cluster.wishes.give_up_move("web")
    await cluster.settle()
    assert cluster.of("web").hosts == ("h1",)


async def hears(cluster, host, **links):
    cluster.more[host] = links
    await cluster.agents_act()


async def test_a_target_that_the_primary_does_not_hear_is_refused_and_the_replica_stays(cluster):
    await cluster.add("web", 1)
    await hears(cluster, "h1", unreachable=("h3",))
    with pytest.raises(RefusedError) as caught:
        await cluster.wishes.move("web", "h3")
    assert caught.value.code == "cannot-move"
    assert "do not hear each other" in str(caught.value)
    await cluster.settle()
    assert (cluster.of("web").hosts, cluster.of("web").sync) == (("h1", "h2"), SyncState.IN_SYNC)


async def test_a_replica_is_not_given_up_for_a_target_whose_link_broke_after_the_wish(cluster):
    await cluster.add("web", 1)
    epoch = cluster.of("web").epoch
    await cluster.wishes.move("web", "h3")
    await hears(cluster, "h1", unreachable=("h3",))
    await cluster.settle()
    assert (cluster.of("web").hosts, cluster.of("web").epoch) == (("h1", "h2"), epoch)
    assert cluster.wish_of("web").move is None
    assert "do not hear each other" in cluster.wish_of("web").move_problem


async def test_a_replica_is_given_up_only_when_the_link_to_its_new_host_has_settled(cluster):
    await cluster.add("web", 1)
    await hears(cluster, "h1", unreachable=("h3",), settling=("h3",))
    await cluster.wishes.move("web", "h3")
    await cluster.settle()
    assert (cluster.of("web").hosts, cluster.of("web").sync) == (("h1", "h2"), SyncState.IN_SYNC)
    assert cluster.wish_of("web").move is not None
    await hears(cluster, "h1")
    await cluster.settle()
    assert (cluster.of("web").primary, cluster.wish_of("web").move) == ("h3", None)


async def test_a_move_whose_link_breaks_after_the_replica_went_is_given_up_and_protected_again(cluster):
    await cluster.add("web", 1)
    await cluster.wishes.move("web", "h3")
    await cluster.step()
    assert cluster.of("web").secondary is None
    await hears(cluster, "h1", unreachable=("h3",))
    await cluster.settle()
    assert "do not hear each other" in cluster.wish_of("web").move_problem
    assert (cluster.of("web").hosts, cluster.of("web").sync) == (("h1", "h2"), SyncState.IN_SYNC)


async def test_a_guest_that_its_disk_stopped_is_not_copied(cluster):
    await cluster.add("web", 1, **ALONE)
    await cluster.wishes.move("web", "h3")
    await hears(cluster, "h1", qemu=STOPPED_BY_DISK)
    await cluster.settle(3)
    assert (cluster.of("web").secondary, cluster.wish_of("web").move.to) == (None, "h3")
    await hears(cluster, "h1")
    await cluster.settle()
    assert cluster.of("web").primary == "h3"
