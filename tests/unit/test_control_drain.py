"""A drained host is emptied, whichever leader is in its term; what cannot move stays, and it is said why."""

from __future__ import annotations

import asyncio

import pytest
from drain_support import ALONE, cluster
from protection_world import endophyte, host, observed

from vdc.model.endophyte import CopyRole, CopyStage, MachineFacts
from vdc.model.errors import NotFoundError, RefusedError, UnavailableError
from vdc.model.host import HostRole
from vdc.model.maintenance import DrainState, DrainWay
from vdc.model.pair import SyncState
from vdc.model.units import GIB, MIB
from vdc.store import keys
from vdc.store.protocol import Delete

__all__ = ["cluster"]


async def test_a_protected_primary_is_promoted_away_and_the_host_serves_as_no_spare(cluster):
    await cluster.add("web", 1)
    first, second = cluster.of("web").hosts
    await cluster.wishes.drain(first)
    await cluster.settle()
    pair = cluster.of("web")
    assert (pair.primary, pair.secondary, pair.spares) == (second, "h3", ())
    assert cluster.asked == ["web"]
    assert cluster.wishes.report(first).items == ()


async def test_a_replica_moves_to_the_host_that_is_left(cluster):
    await cluster.add("web", 1)
    first, second = cluster.of("web").hosts
    await cluster.wishes.drain(second)
    await cluster.settle()
    pair = cluster.of("web")
    assert (pair.primary, pair.secondary, pair.sync, pair.spares) == (first, "h3", SyncState.IN_SYNC, ())
    assert "replica-moves" in await cluster.codes("web")


async def test_after_resume_the_host_is_a_spare_again_at_once(cluster):
    """The leader took the replica away itself: that is no failure of the host that it would have to sit out."""
    await cluster.add("web", 1)
    second = cluster.of("web").secondary
    await cluster.wishes.drain(second)
    await cluster.settle()
    assert await cluster.wishes.resume(second)
    assert cluster.controller._backing_off("uid-1") == frozenset()
    await cluster.settle(2)
    assert cluster.of("web").spares == (second,)


async def test_an_unprotected_vm_moves_by_a_copy_that_lasts_for_the_move(cluster):
    await cluster.add("web", 1, **ALONE)
    assert cluster.of("web").primary == "h1"
    await cluster.wishes.drain("h1")
    await cluster.step()
    await cluster.mirror.read_all()
    assert (cluster.wish_of("web").move.to, cluster.wish_of("web").move.drained) == ("h2", "h1")
    assert not cluster.wish_of("web").wants_protection
    await cluster.settle()
    pair, wish = cluster.of("web"), cluster.wish_of("web")
    assert (pair.primary, pair.secondary, wish.move, wish.move_problem) == ("h2", None, None, "")
    assert {"moving", "moved"} <= set(await cluster.codes("web"))


async def test_a_new_leader_goes_on_where_the_old_one_died(cluster):
    await cluster.add("web", 1, **ALONE)
    await cluster.add("db", 2)
    await cluster.wishes.drain("h1")
    for _ in range(14):
        cluster.new_leader()
        await cluster.step()
        await cluster.agents_act()
    assert "h1" not in {one for name in ("web", "db") for one in cluster.of(name).hosts}


async def test_resume_in_the_middle_takes_the_move_back(cluster):
    await cluster.add("web", 1, **ALONE)
    await cluster.wishes.drain("h1")
    for _ in range(2):
        await cluster.step()
    assert cluster.of("web").secondary == "h2"
    await cluster.wishes.resume("h1")
    await cluster.settle()
    assert (cluster.of("web").primary, cluster.of("web").secondary) == ("h1", None)
    assert cluster.wish_of("web").move is None
    assert cluster.asked == []


async def test_where_nobody_has_room_it_says_why_and_keeps_the_wish(cluster):
    for name in ("h2", "h3"):
        await cluster.put((keys.host(name), host(name, memory=300 * MIB).to_json()))
    await cluster.add("web", 1, **ALONE)
    await cluster.wishes.drain("h1")
    await cluster.settle()
    item = cluster.wishes.report("h1").items[0]
    assert (item.name, item.state, item.way) == ("web", DrainState.BLOCKED, DrainWay.MIGRATION)
    assert "h2 has 300MiB of memory free" in item.sentence
    assert "h1" in cluster.mirror.drained
    await cluster.put((keys.host("h2"), host("h2", memory=8 * GIB).to_json()))
    await cluster.settle()
    assert cluster.of("web").primary == "h2"


async def test_a_pair_that_lockstep_cannot_join_is_left_with_the_reason(cluster):
    for name in ("h2", "h3"):
        await cluster.put((keys.host(name), host(name, version="12.0.0").to_json()))
    await cluster.add("web", 1, **ALONE)
    await cluster.wishes.drain("h1")
    await cluster.settle()
    assert "h1 runs QEMU 11.1.3, h2 12.0.0" in cluster.wishes.report("h1").left[0].sentence
    with pytest.raises(RefusedError) as caught:
        await cluster.wishes.move("web", "h2")
    assert caught.value.code == "cannot-move"


async def test_in_a_cluster_of_two_the_replica_goes_and_it_is_said(cluster):
    await cluster.put_away("h3")
    await cluster.add("web", 1)
    assert cluster.of("web").secondary == "h2"
    planned = await cluster.wishes.drain("h2", dry_run=True)
    assert "goes on unprotected" in planned.items[0].sentence
    assert planned.wish is None
    await cluster.settle()
    assert cluster.of("web").secondary == "h2", "a dry run changes nothing"
    await cluster.wishes.drain("h2")
    await cluster.settle()
    assert (cluster.of("web").primary, cluster.of("web").secondary) == ("h1", None)


async def test_not_all_replicas_are_given_up_at_once(cluster):
    await cluster.put_away("h3")
    for number in range(6):
        await cluster.add(f"vm{number}", number)
    await cluster.put((keys.host("h3"), host("h3").to_json()), (keys.liveness("h3"), "i"))
    replicas = {name: cluster.of(name).secondary for name in cluster.mirror.pairs}
    assert len(replicas) == 6
    first = replicas["vm0"]
    assert list(replicas.values()).count(first) > 2
    await cluster.wishes.drain(first)
    for _ in range(5):  # the agents are slow: nothing that was begun comes to an end
        await cluster.step()
    bare = [name for name in cluster.mirror.pairs if cluster.of(name).sync is not SyncState.IN_SYNC]
    assert len(bare) == 2
    await cluster.settle(40)
    assert all(first not in (*cluster.of(n).hosts, *cluster.of(n).spares) for n in cluster.mirror.pairs)


async def test_one_promotion_after_the_other(cluster):
    for number in range(2):
        await cluster.add(f"vm{number}", number)
    host_of = cluster.of("vm0").primary
    if cluster.of("vm1").primary != host_of:
        await cluster.wishes.move("vm1", host_of)
        await cluster.settle()
    cluster.asked.clear()
    under_way, worst = 0, 0

    async def slow(name):
        nonlocal under_way, worst
        under_way += 1
        worst = max(worst, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        await cluster.promote(name)

    cluster.controller._mover._promote = slow
    await cluster.wishes.drain(host_of)
    await cluster.settle(20)
    assert (sorted(cluster.asked), worst) == (["vm0", "vm1"], 1)


async def test_a_vm_without_protection_is_given_its_copy_however_many_others_wait(cluster):
    for number in range(4):
        await cluster.add(f"vm{number}", number)
    for name in ("h2", "h3"):
        await cluster.put((keys.host(name), host(name, schedulable=False).to_json()))
    host_of = cluster.of("vm0").primary
    for name in cluster.mirror.pairs:
        pair = cluster.of(name)
        alone = pair.with_(epoch=pair.epoch + 1, primary=host_of, secondary=None, sync="none", spares=())
        await cluster.put((keys.pair(name), alone.to_json()))
    await cluster.agents_act()
    cluster.new_leader()
    for name in ("h2", "h3"):
        await cluster.put((keys.host(name), host(name).to_json()))
    await cluster.wishes.drain(host_of)
    await cluster.settle()
    assert [cluster.of(name).primary == host_of for name in sorted(cluster.mirror.pairs)] == [False] * 4


async def test_where_both_hosts_are_drained_and_no_third_can_help_the_pair_stays(cluster):
    await cluster.add("web", 1)
    await cluster.put((keys.host("h3"), host("h3", memory=300 * MIB).to_json()))
    for name in ("h1", "h2"):
        await cluster.wishes.drain(name)
    await cluster.settle()
    assert cluster.of("web").hosts == ("h1", "h2")
    blocked = cluster.wishes.report("h2").left[0]
    assert blocked.state is DrainState.BLOCKED
    assert "h1 is drained too" in blocked.sentence
    assert cluster.asked == [], "from one drained host to another is no way off"


async def test_a_guest_that_an_older_qemu_started_does_not_move_to_a_newer_one(cluster):
    await cluster.add("web", 1, **ALONE)
    facts = MachineFacts(accelerator="tcg", cpu_model="max", qemu_version="10.9.0", disk_sizes_bytes=())
    runs = observed("h1", CopyRole.PRIMARY, CopyStage.RUNNING, epoch=1, uid="uid-1", machine=facts)
    await cluster.put((keys.observed("web", "h1"), runs.to_json()))
    await cluster.wishes.drain("h1")
    await cluster.step()
    assert "h1 runs QEMU 10.9.0, h2 11.1.3" in cluster.wishes.report("h1").left[0].sentence
    assert cluster.wish_of("web").move is None


async def test_a_host_is_not_empty_before_the_old_copy_has_ended(cluster):
    await cluster.add("web", 1, nodes=2)
    await cluster.wishes.drain("h1")
    for _ in range(2):
        await cluster.step()
    assert cluster.of("web").primary == "h2"
    assert "being ended" in cluster.wishes.report("h1").left[0].sentence
    await cluster.settle(2)
    assert cluster.wishes.report("h1").left == ()


async def test_a_pass_on_an_old_view_asks_for_no_second_promotion(cluster):
    await cluster.add("web", 1)
    await cluster.wishes.drain("h1")
    await cluster.mirror.read_all()

    async def promote_unseen(name):
        cluster.asked.append(name)

    cluster.controller._mover._promote = promote_unseen
    for _ in range(3):
        await cluster.controller.reconcile()
        await asyncio.gather(*cluster.controller._mover._promotions.values())
    assert cluster.asked == ["web"]


async def test_a_promotion_that_fails_is_asked_for_again_after_a_while(cluster):
    await cluster.add("web", 1)
    cluster.refuses = UnavailableError("h2 does not answer")
    await cluster.wishes.drain("h1")
    for _ in range(4):
        await cluster.step()
    assert cluster.asked == ["web"]
    for pause_s in (4, 8, 16):
        cluster.clock.now += pause_s
        await cluster.step()
    assert len(cluster.asked) == 4
    cluster.clock.now += 4
    await cluster.step()
    assert len(cluster.asked) == 4, "the longer it fails, the more rarely it is asked for"
    assert (await cluster.codes("web")).count("promotion-late") == 1, "the same reason is said once"
    cluster.refuses = None
    cluster.clock.now += 60
    await cluster.settle()
    assert cluster.of("web").primary == "h2"


async def test_a_replica_whose_host_does_not_answer_is_not_asked(cluster):
    await cluster.add("web", 1)
    await cluster.store.commit([], [Delete(keys.liveness("h2"))])
    await cluster.mirror.read_all()
    await cluster.wishes.drain("h1")
    await cluster.settle(3)
    assert cluster.asked == []
    assert "h2 does not answer" in cluster.wishes.report("h1").left[0].sentence


async def test_a_stopped_vm_needs_leave_to_stay(cluster):
    await cluster.add("web", 1, **ALONE)
    stopped = endophyte("web", uid="uid-1", run="stopped", **ALONE)
    absent = observed("h1", None, CopyStage.ABSENT, epoch=1, uid="uid-1")
    await cluster.put(
        (keys.endophyte("web"), stopped.to_json()), (keys.observed("web", "h1"), absent.to_json())
    )
    with pytest.raises(RefusedError) as caught:
        await cluster.wishes.drain("h1")
    assert caught.value.code == "stopped-vms"
    assert "--leave-stopped" in caught.value.problem.hint
    await cluster.wishes.drain("h1", leave_stopped=True)
    await cluster.mirror.read_all()
    report = cluster.wishes.report("h1")
    assert [item.state for item in report.items] == [DrainState.STAYS]
    assert report.left == ()


async def test_what_cannot_be_drained_is_refused_in_a_sentence(cluster):
    with pytest.raises(NotFoundError):
        await cluster.wishes.drain("h9")
    await cluster.wishes.drain("h2")
    await cluster.wishes.drain("h3", reason="new disks")
    await cluster.mirror.read_all()
    with pytest.raises(RefusedError) as caught:
        await cluster.wishes.drain("h1")
    assert caught.value.code == "last-host"
    again = await cluster.wishes.drain("h3")
    assert again.wish.reason == "new disks", "the same wish again keeps what was said"


async def test_a_dead_host_may_be_drained_and_nothing_is_placed_there(cluster):
    await cluster.add("web", 1, **ALONE)
    await cluster.store.commit([], [Delete(keys.liveness("h1"))])
    await cluster.mirror.read_all()
    report = await cluster.wishes.drain("h1")
    assert not report.alive
    assert report.items[0].state is DrainState.BLOCKED
    await cluster.settle(3)
    assert cluster.of("web").primary == "h1", "silence is no proof of death"


async def test_an_unprotected_vm_does_not_go_to_a_roomier_host_that_its_primary_does_not_hear(cluster):
    await cluster.put((keys.host("h3"), host("h3", memory=16 * GIB).to_json()))
    await cluster.put((keys.host("h1"), host("h1", memory=32 * GIB).to_json()))
    await cluster.add("web", 1, **ALONE)
    assert cluster.of("web").primary == "h1"
    cluster.more["h1"] = {"unreachable": ("h3",)}
    await cluster.agents_act()
    await cluster.wishes.drain("h1")
    await cluster.settle()
    assert cluster.of("web").primary == "h2"


async def test_a_replica_on_a_drained_host_waits_for_a_link_that_settles_and_not_for_a_broken_one(cluster):
    await cluster.add("web", 1)
    cluster.more["h1"] = {"unreachable": ("h3",), "settling": ("h3",)}
    await cluster.agents_act()
    await cluster.wishes.drain("h2")
    await cluster.settle()
    assert (cluster.of("web").secondary, cluster.of("web").sync) == ("h2", SyncState.IN_SYNC)
    item = cluster.wishes.report("h2").left[0]
    assert (item.state, item.to) == (DrainState.WAITING, "h3")
    assert "have heard each other for a while" in item.sentence
    cluster.more["h1"] = {"unreachable": ("h3",)}
    await cluster.agents_act()
    assert "goes on unprotected" in cluster.wishes.report("h2").left[0].sentence
    await cluster.settle()
    assert cluster.of("web").secondary is None


async def test_a_guest_is_judged_by_the_qemu_that_started_it_when_its_replica_moves(cluster):
    """The runtime of h1 was upgraded in place; the guest there, h2 and h3 still run the older QEMU."""
    await cluster.add("web", 1)
    facts = MachineFacts(accelerator="tcg", cpu_model="max", qemu_version="11.1.3", disk_sizes_bytes=())
    cluster.more["h1"] = {"machine": facts}
    await cluster.agents_act()
    await cluster.put((keys.host("h1"), host("h1", version="12.0.0").to_json()))
    await cluster.wishes.drain("h2")
    await cluster.settle()
    pair = cluster.of("web")
    assert (pair.hosts, pair.sync) == (("h1", "h3"), SyncState.IN_SYNC)


async def test_a_witness_is_no_host_that_may_run_guests(cluster):
    await cluster.put((keys.host("h3"), host("h3").with_(role=HostRole.WITNESS).to_json()))
    await cluster.wishes.drain("h2")
    await cluster.mirror.read_all()
    with pytest.raises(RefusedError) as caught:
        await cluster.wishes.drain("h1")
    assert caught.value.code == "last-host"
