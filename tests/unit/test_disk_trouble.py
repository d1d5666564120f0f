"""What a disk refuses, from QEMU's events to the decision: the healthy copy goes on, no torn copy is promoted."""

from __future__ import annotations

import pytest
from protection_world import observed, pair, primary_in, secondary_in

from hostagent.supervisor.trouble import DiskTrouble
from vdc.model.endophyte import CopyRole, CopyStage, Phase
from vdc.model.pair import SyncState
from vdc.protection.decide import decide
from vdc.protection.snapshot import PeerView
from vdc.protection.status import endophyte_status
from vdc.protection.table import Action, State

P, S = CopyRole.PRIMARY, CopyRole.SECONDARY
SILENT = PeerView(management_silent_ms=500, replication_silent_ms=500)
STOPPED = {"action": "stop", "nospace": True, "reason": "No space left on device"}


def bad(node, error="Input/output error"):
    return {"node-name": node, "error": error, "type": "write"}


def heard(event, data, role, stage):
    trouble = DiskTrouble()
    trouble.on_event(event, data, role, stage, 7)
    return trouble


@pytest.mark.parametrize("stage", [CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP])
def test_a_primary_in_lockstep_tells_its_disk_from_the_secondarys(stage):
    own = heard("QUORUM_REPORT_BAD", bad("img0"), P, stage)
    assert (own.here, own.there) == ("Input/output error", "")
    other = heard("QUORUM_REPORT_BAD", bad("nbd0-e7"), P, stage)
    assert (other.here, other.there) == ("", "Input/output error")
    for node in ("pair0-e7", "watch0-e7", "wall0-e7", "repl0-e7"):
        passed_on = heard("QUORUM_REPORT_BAD", bad(node), P, stage)
        assert (passed_on.here, passed_on.there) == ("", ""), node


def test_what_is_said_late_of_an_earlier_secondary_is_not_held_against_this_one():
    assert not heard("QUORUM_REPORT_BAD", bad("nbd0-e6"), P, CopyStage.CHECKPOINTING).there


@pytest.mark.parametrize("node", ["guard0f", "childs0"])
def test_whatever_a_secondary_hears_is_its_own(node):
    assert heard("QUORUM_REPORT_BAD", bad(node), S, CopyStage.LOCKSTEP).here


def test_a_guest_that_its_disk_stopped_in_lockstep_counts_as_well():
    assert heard("BLOCK_IO_ERROR", STOPPED, S, CopyStage.LOCKSTEP).here == "No space left on device"


def test_leaving_lockstep_makes_errors_that_say_nothing():
    for event, data in (("QUORUM_REPORT_BAD", bad("repl0-e7")), ("BLOCK_IO_ERROR", STOPPED)):
        trouble = heard(event, data, P, CopyStage.LEAVING)
        assert not trouble.here
        assert not trouble.there
        assert not trouble.is_stopped


@pytest.mark.parametrize(
    ("text", "is_ours"),
    [
        (b"qemu-system-x86_64: Failed to empty /vm/active0.qcow2: No space left on device\n", True),
        (b"qemu-system-x86_64: I/O error occurred\n", True),
        (b"qemu-system-x86_64: Can't receive COLO message: Input/output error\n", False),
    ],
)
def test_the_log_tells_why_a_secondary_left_lockstep(tmp_path, text, is_ours):
    (tmp_path / "qemu.log").write_bytes(b"x" * 9000 + text)
    trouble = DiskTrouble()
    trouble.read_log(tmp_path / "qemu.log")
    assert bool(trouble.here) is is_ours


def test_no_log_is_no_trouble(tmp_path):
    trouble = DiskTrouble()
    trouble.read_log(tmp_path / "none")
    assert not trouble.here


# ---- what is decided


def test_a_primary_whose_disk_fails_gives_way():
    decision = decide(primary_in(CopyStage.LOCKSTEP, disk_failed=True))
    assert (decision.action, decision.row.to) == (Action.NOTE, State.P_DEAD)
    assert decision.sentence == "the disk on h1 failed; h2 takes over"


@pytest.mark.parametrize("stage", [CopyStage.READY, CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP])
@pytest.mark.parametrize("primary_is", [PeerView(), SILENT, PeerView(copy_dead=True)])
def test_a_secondary_whose_disk_failed_is_never_promoted(stage, primary_is):
    sync = SyncState.IN_SYNC if stage is CopyStage.LOCKSTEP else SyncState.SYNCING
    decision = decide(
        secondary_in(stage, the_pair=pair(sync=sync), peer=primary_is, disk_failed=True, colo_ended=True)
    )
    assert (decision.action, decision.row.to) == (Action.NOTE, State.S_FAILED)


@pytest.mark.parametrize("stage", [CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP])
def test_a_primary_goes_on_without_a_secondary_whose_disk_failed(stage):
    assert decide(primary_in(stage, peer_disk_failed=True)).action is Action.GO_ALONE


def test_where_both_disks_fail_the_primary_keeps_its_guest():
    decision = decide(primary_in(CopyStage.LOCKSTEP, disk_failed=True, peer_disk_failed=True))
    assert decision.action is Action.GO_ALONE


@pytest.mark.parametrize("peer", [SILENT, PeerView(copy_dead=True)])
def test_a_primary_gives_way_to_nobody_who_is_not_there(peer):
    decision = decide(primary_in(CopyStage.LOCKSTEP, disk_failed=True, peer=peer))
    assert decision.action is Action.GO_ALONE


def test_a_primary_does_not_give_way_before_the_secondary_has_it_all():
    decision = decide(
        primary_in(CopyStage.CHECKPOINTING, the_pair=pair(sync=SyncState.SYNCING), disk_failed=True)
    )
    assert decision.action is Action.GO_ALONE


@pytest.mark.parametrize("is_full", [True, False])
def test_a_guest_alone_waits_for_its_disk(is_full):
    alone = pair(secondary=None)
    decision = decide(primary_in(CopyStage.RUNNING, the_pair=alone, disk_stopped=True, disk_full=is_full))
    assert decision.action is Action.RETRY_DISK
    assert ("room" in decision.sentence) is is_full


def test_a_user_who_wants_it_off_need_not_wait():
    from protection_world import endophyte

    snapshot = primary_in(
        CopyStage.RUNNING,
        the_pair=pair(secondary=None),
        the_endophyte=endophyte(run="stopped"),
        disk_stopped=True,
    )
    assert decide(snapshot).action is Action.POWER_DOWN


def test_it_is_shown_as_paused():
    from protection_world import endophyte

    copy = observed("h1", P, CopyStage.RUNNING, qemu="io-error", sentence="paused: no room")
    status = endophyte_status(endophyte(), pair(secondary=None), [copy], frozenset({"h1"}))
    assert status.phase is Phase.PAUSED
    assert status.sentence.startswith("paused: no room")
