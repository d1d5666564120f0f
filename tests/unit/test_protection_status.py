"""What users see of an Endophyte follows from the records, and says lockstep only where both sides say so."""

from __future__ import annotations

import pytest
from protection_world import endophyte, observed, pair

from vdc.model.endophyte import CopyProgress, CopyRole, CopyStage, Phase, Protection
from vdc.model.pair import SyncState
from vdc.protection.status import endophyte_status

ALL = frozenset({"h1", "h2", "h3"})
P, S = CopyRole.PRIMARY, CopyRole.SECONDARY


def status(the_pair, *copies, alive=ALL, problem="", **wanted):
    return endophyte_status(endophyte(**wanted), the_pair, copies, alive, problem)


def test_lockstep_needs_the_record_and_both_copies():
    both = [observed("h1", P, CopyStage.LOCKSTEP), observed("h2", S, CopyStage.LOCKSTEP)]
    assert status(pair(), *both).protection is Protection.LOCKSTEP
    assert status(pair(sync=SyncState.SYNCING), *both).protection is Protection.SYNCING
    assert status(pair(), both[0]).protection is Protection.DEGRADED
    assert status(pair(), both[0], observed("h2", S, CopyStage.DEAD)).protection is Protection.DEGRADED


def test_the_sentence_of_lockstep_is_the_one_that_the_manual_shows():
    both = [observed("h1", P, CopyStage.LOCKSTEP), observed("h2", S, CopyStage.LOCKSTEP)]
    assert status(pair(), *both).sentence == "primary on h1 in lockstep with h2; spare h3"


def test_a_silent_host_is_unknown_never_dead():
    shown = status(pair(secondary=None), observed("h1", P, CopyStage.RUNNING), alive=frozenset({"h2", "h3"}))
    assert shown.phase is Phase.UNKNOWN
    assert shown.primary.stage == "unknown"
    assert "not known" in shown.sentence


def test_a_copy_of_an_earlier_vm_of_the_same_name_is_not_shown():
    shown = status(pair(secondary=None), observed("h1", P, CopyStage.RUNNING, uid="other"))
    assert shown.phase is Phase.STARTING


def test_without_a_place_it_says_why():
    shown = status(None, problem="no host can take the primary of web: h1 is drained")
    assert shown.phase is Phase.PENDING
    assert shown.sentence == "no host can take the primary of web: h1 is drained"
    assert (shown.epoch, shown.primary, shown.secondary) == (0, None, None)


@pytest.mark.parametrize(
    ("stage", "wanted", "phase"),
    [
        (CopyStage.RUNNING, {}, Phase.RUNNING),
        (CopyStage.PREPARING, {}, Phase.STARTING),
        (CopyStage.PAUSED, {"run": "paused"}, Phase.PAUSED),
        (CopyStage.ISOLATED, {}, Phase.ISOLATED),
        (CopyStage.FAILED, {}, Phase.FAILED),
        (CopyStage.ABSENT, {"run": "stopped"}, Phase.STOPPED),
        (CopyStage.RUNNING, {"run": "stopped"}, Phase.STOPPING),
        (CopyStage.RUNNING, {"deleting": True}, Phase.DELETING),
    ],
)
def test_the_phase_is_one_word_for_where_it_stands(stage, wanted, phase):
    assert status(pair(secondary=None), observed("h1", P, stage), **wanted).phase is phase


def test_a_promotion_does_not_look_like_a_restart():
    taken_over = pair(epoch=3, primary="h2", secondary=None, spares=("h3", "h1"))
    assert status(taken_over, observed("h2", S, CopyStage.LOCKSTEP)).phase is Phase.RUNNING


def test_unprotected_though_it_should_be_is_degraded_with_the_reason():
    shown = status(
        pair(secondary=None), observed("h1", P, CopyStage.RUNNING), problem="no host can take a secondary"
    )
    assert shown.protection is Protection.DEGRADED
    assert "no host can take a secondary" in shown.sentence
    assert (
        status(pair(secondary=None), observed("h1", P, CopyStage.RUNNING), protect=False).protection
        is Protection.NONE
    )


def test_a_vm_whose_host_was_removed_is_lost_and_says_so():
    others = frozenset({"h2", "h3"})
    gone = endophyte_status(endophyte(), pair(secondary=None), (), others, known=others)
    assert gone.phase is Phase.FAILED
    assert "it can be deleted" in gone.sentence
    silent = endophyte_status(endophyte(), pair(secondary=None), (), others, known=ALL)
    assert silent.phase is Phase.UNKNOWN, "silence is not removal"


def test_since_when_it_is_unprotected_is_shown_while_protection_is_wanted_and_missing():
    alone = pair(secondary=None).with_(unprotected_since="2030-01-01T00:00:00Z")
    running = observed("h1", P, CopyStage.RUNNING)
    assert status(alone, running).unprotectedSince == "2030-01-01T00:00:00Z"
    assert status(alone, running, protect=False).unprotectedSince is None
    assert status(alone.with_(secondary="h2", sync="syncing"), running).unprotectedSince is not None
    assert status(pair(), running).unprotectedSince is None
    assert status(None).unprotectedSince is None


def test_what_is_being_copied_is_said_in_bytes():
    copying = CopyProgress(what="disk", done_bytes=3 * 2**20, total_bytes=2**30)
    entering = observed(
        "h1", P, CopyStage.ENTERING, sentence="copying disk and memory to h2", copying=copying
    )
    shown = status(pair(sync=SyncState.SYNCING), entering)
    assert shown.sentence == "copying disk and memory to h2: disk 3MiB of 1GiB"
    assert shown.primary.copying == copying
