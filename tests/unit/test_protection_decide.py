"""What a host does, situation by situation; each test is a sentence of failover.md."""

from __future__ import annotations

import dataclasses

import pytest
from protection_world import endophyte, observed, pair, primary_in, secondary_in

from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.pair import SyncState
from vdc.protection.decide import decide
from vdc.protection.snapshot import CopyView, PeerView, Snapshot
from vdc.protection.table import Action, State

SILENT = PeerView(management_silent_ms=500, replication_silent_ms=500)
REPLICATION_CUT = PeerView(replication_silent_ms=500)
MANAGEMENT_CUT = PeerView(management_silent_ms=60_000)
ALONE = pair(secondary=None)
SYNCING = pair(sync=SyncState.SYNCING)


def action(snapshot):
    return decide(snapshot).action


def test_lockstep_with_everybody_well_is_left_alone():
    decision = decide(primary_in(CopyStage.LOCKSTEP))
    assert decision.action is Action.HOLD
    assert decision.sentence == "primary on h1 in lockstep with h2"


@pytest.mark.parametrize("peer", [SILENT, PeerView(copy_dead=True)])
def test_a_primary_that_lost_its_secondary_asks_to_go_alone(peer):
    assert action(primary_in(CopyStage.LOCKSTEP, peer=peer)) is Action.GO_ALONE


@pytest.mark.parametrize("peer", [SILENT, PeerView(copy_dead=True)])
def test_a_secondary_in_sync_that_lost_its_primary_asks_to_be_promoted(peer):
    assert action(secondary_in(CopyStage.LOCKSTEP, peer=peer)) is Action.PROMOTE


def test_qemu_leaving_lockstep_by_itself_is_reason_enough_for_the_secondary():
    assert action(secondary_in(CopyStage.LOCKSTEP, colo_ended=True)) is Action.PROMOTE


@pytest.mark.parametrize("stage", [CopyStage.READY, CopyStage.CHECKPOINTING])
@pytest.mark.parametrize("peer", [SILENT, PeerView(copy_dead=True)])
def test_a_secondary_that_is_not_in_sync_is_never_promoted(stage, peer):
    snapshot = secondary_in(stage, the_pair=SYNCING, peer=peer, colo_ended=True, checkpoints=5)
    assert action(snapshot) is not Action.PROMOTE


def test_one_network_alone_is_a_warning_only_when_it_is_the_management_network():
    assert action(primary_in(CopyStage.LOCKSTEP, peer=MANAGEMENT_CUT)) is Action.HOLD
    assert action(secondary_in(CopyStage.LOCKSTEP, peer=MANAGEMENT_CUT)) is Action.HOLD


def test_the_primary_has_a_head_start_when_only_replication_is_cut():
    soon = PeerView(replication_silent_ms=250)
    assert action(primary_in(CopyStage.LOCKSTEP, peer=soon)) is Action.GO_ALONE
    assert action(secondary_in(CopyStage.LOCKSTEP, peer=soon)) is Action.HOLD
    assert action(secondary_in(CopyStage.LOCKSTEP, peer=REPLICATION_CUT)) is Action.PROMOTE


def test_a_stalled_checkpoint_ends_protection_not_the_guest():
    assert action(primary_in(CopyStage.LOCKSTEP, stalled_ms=1_900)) is Action.HOLD
    assert action(primary_in(CopyStage.LOCKSTEP, stalled_ms=2_100)) is Action.GO_ALONE


def test_a_newer_epoch_elsewhere_ends_this_copy():
    moved = pair(epoch=3, primary="h2", secondary=None, spares=("h3", "h1"))
    assert action(primary_in(CopyStage.LOCKSTEP, the_pair=moved)) is Action.DISCARD
    assert action(primary_in(CopyStage.RUNNING, the_pair=moved)) is Action.DISCARD


def test_a_secondary_whose_primary_went_alone_ends_itself():
    assert action(secondary_in(CopyStage.LOCKSTEP, the_pair=pair(epoch=3, secondary=None))) is Action.DISCARD


def test_a_promotion_whose_answer_was_lost_is_carried_out():
    won = pair(epoch=3, primary="h2", secondary=None, spares=("h3", "h1"))
    assert action(secondary_in(CopyStage.LOCKSTEP, the_pair=won)) is Action.TAKE_OVER


def test_going_alone_whose_answer_was_lost_is_carried_out():
    assert action(primary_in(CopyStage.LOCKSTEP, the_pair=pair(epoch=3, secondary=None))) is Action.LEAVE


def test_in_sync_needs_three_checkpoints_two_seconds_and_a_sane_guest():
    def proving(**copy):
        return action(primary_in(CopyStage.CHECKPOINTING, the_pair=SYNCING, **copy))

    assert proving(checkpoints=3, lockstep_for_s=2.0) is Action.MARK
    assert proving(checkpoints=2, lockstep_for_s=9.0) is Action.HOLD
    assert proving(checkpoints=9, lockstep_for_s=1.9) is Action.HOLD
    crashed = observed(
        "h2", CopyRole.SECONDARY, CopyStage.CHECKPOINTING, error="the secondary's guest crashed"
    )
    assert proving(checkpoints=9, lockstep_for_s=9.0, peer_observed=crashed) is Action.HOLD


def test_entering_waits_until_the_secondary_is_ready_for_this_epoch():
    def with_peer(stage, epoch):
        ready = observed("h2", CopyRole.SECONDARY, stage, epoch=epoch)
        return action(primary_in(CopyStage.RUNNING, the_pair=SYNCING, peer_observed=ready))

    assert with_peer(CopyStage.PREPARING, 2) is Action.HOLD
    assert with_peer(CopyStage.READY, 1) is Action.HOLD
    assert with_peer(CopyStage.READY, 2) is Action.ENTER
    assert with_peer(CopyStage.FAILED, 2) is Action.GO_ALONE


def test_stopping_a_protected_vm_ends_protection_first():
    assert action(primary_in(CopyStage.LOCKSTEP, the_endophyte=endophyte(run="stopped"))) is Action.GO_ALONE
    alone = primary_in(CopyStage.RUNNING, the_pair=ALONE, the_endophyte=endophyte(run="stopped"))
    assert action(alone) is Action.POWER_DOWN


def test_a_restart_is_a_power_cycle():
    wanted = endophyte(restarts=1)
    assert (
        action(primary_in(CopyStage.RUNNING, the_pair=ALONE, the_endophyte=wanted, restarts=0))
        is Action.POWER_DOWN
    )
    assert (
        action(primary_in(CopyStage.RUNNING, the_pair=ALONE, the_endophyte=wanted, restarts=1)) is Action.HOLD
    )


def test_nobody_to_ask_pauses_the_guest_after_a_while():
    def cut_off(silent_ms):
        snapshot = primary_in(CopyStage.LOCKSTEP, peer=SILENT)
        return Snapshot(
            **{f: getattr(snapshot, f) for f in snapshot.__slots__} | {"store_silent_ms": silent_ms}
        )

    assert action(cut_off(7_000)) is Action.GO_ALONE  # it asks; the store decides
    assert action(cut_off(8_100)) is Action.ISOLATE


def test_a_dead_primary_waits_for_a_secondary_that_may_speak():
    dead = primary_in(CopyStage.DEAD)
    assert action(dead) is Action.HOLD


def test_a_dead_primary_without_a_full_copy_elsewhere_starts_again_at_home():
    assert action(primary_in(CopyStage.DEAD, the_pair=SYNCING)) is Action.GO_ALONE
    assert action(primary_in(CopyStage.DEAD, the_pair=ALONE)) is Action.START


def test_both_copies_dead_by_their_own_agents_words_starts_again_at_home():
    gone = observed("h2", CopyRole.SECONDARY, CopyStage.DEAD)
    assert action(primary_in(CopyStage.DEAD, peer_observed=gone)) is Action.GO_ALONE


def test_silence_alone_never_starts_a_second_copy():
    assert action(primary_in(CopyStage.DEAD, peer=SILENT)) is Action.HOLD


def test_nothing_is_removed_while_the_store_is_silent():
    files = CopyView(has_files=True)
    silent = Snapshot(me="h3", endophyte=None, pair=None, copy=files, store_silent_ms=5_000)
    assert action(silent) is Action.HOLD
    assert action(Snapshot(me="h3", endophyte=None, pair=None, copy=files)) is Action.SWEEP


def test_a_copy_that_the_cluster_does_not_know_is_kept():
    for copy in (
        CopyView(role=CopyRole.PRIMARY, stage=CopyStage.RUNNING, epoch=2, alive=True, has_files=True),
        CopyView(role=None, stage=CopyStage.ABSENT, has_files=True),  # of a VM that is off
    ):
        unknown = Snapshot(me="h3", endophyte=None, pair=None, copy=copy, is_orphan=True)
        assert action(unknown) is Action.HOLD
        assert action(dataclasses.replace(unknown, is_orphan=False)) in (Action.DISCARD, Action.SWEEP)


def test_a_guest_that_powered_itself_off_stays_off():
    assert action(primary_in(CopyStage.DEAD, the_pair=ALONE, powered_off=True)) is Action.RECORD_POWER_OFF


def test_a_secondary_whose_guest_crashed_is_given_up_while_the_primary_lives():
    assert decide(secondary_in(CopyStage.LOCKSTEP, guest_crashed=True)).row.to is State.S_FAILED
    failed = observed("h2", CopyRole.SECONDARY, CopyStage.FAILED)
    assert action(primary_in(CopyStage.LOCKSTEP, peer_observed=failed)) is Action.GO_ALONE


def test_a_crashed_secondary_is_better_than_none_when_the_primary_is_lost():
    assert action(secondary_in(CopyStage.LOCKSTEP, peer=SILENT, guest_crashed=True)) is Action.PROMOTE


def test_a_reset_guest_gets_a_fresh_secondary():
    assert action(primary_in(CopyStage.LOCKSTEP, guest_reset=True)) is Action.GO_ALONE


def test_a_record_that_is_older_than_the_copy_is_waited_out():
    won = secondary_in(CopyStage.PROMOTING, epoch=3)
    older = Snapshot(
        **{f: getattr(won, f) for f in won.__slots__}
        | {"copy": CopyView(CopyRole.PRIMARY, CopyStage.PROMOTING, 3, True, True)}
    )
    assert action(older) is Action.HOLD


def test_a_promotion_that_was_won_keeps_its_disks_though_the_copy_ended():
    won = pair(epoch=3, primary="h2", secondary=None, spares=("h3", "h1"))
    assert action(secondary_in(CopyStage.LOCKSTEP, the_pair=won, alive=False)) is Action.INHERIT


def test_a_mark_whose_answer_was_lost_is_noted():
    assert (
        decide(primary_in(CopyStage.CHECKPOINTING, checkpoints=9, lockstep_for_s=9.0)).row.to
        is State.P_LOCKSTEP
    )


def test_an_entry_that_was_cut_short_gives_the_secondary_up():
    assert action(primary_in(CopyStage.LEAVING, the_pair=SYNCING)) is Action.GO_ALONE


def test_a_dead_primary_is_not_bound_for_ever_to_a_secondary_that_stays_away():
    away = PeerView(management_silent_ms=9_000, replication_silent_ms=9_000)
    assert action(primary_in(CopyStage.DEAD, peer=away)) is Action.GO_ALONE
    assert action(primary_in(CopyStage.DEAD, the_endophyte=endophyte(run="stopped"))) is Action.GO_ALONE


def test_a_secondary_that_was_in_sync_is_so_whatever_its_qemu_said_first():
    assert decide(secondary_in(CopyStage.CHECKPOINTING, colo_ended=True)).row.to is State.S_LOCKSTEP
