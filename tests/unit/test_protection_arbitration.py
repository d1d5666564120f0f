"""The arbitration record changes in the allowed ways and in no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protection_world import UID, pair

from vdc.model.errors import BugError, ConflictError, RefusedError
from vdc.model.pair import OlderCopy, SyncState
from vdc.protection.arbitration import add_secondary, go_alone, mark_in_sync, new_pair, promote_secondary
from vdc.protection.invariants import check_transition

ID = {"request_id": "r", "now": "t"}


def test_promotion_makes_the_old_primary_a_spare():
    after = promote_secondary(pair(), reason="x", **ID)
    assert (after.epoch, after.primary, after.secondary, after.spares) == (3, "h2", None, ("h3", "h1"))


def test_only_a_pair_in_sync_can_be_promoted():
    with pytest.raises(RefusedError) as caught:
        promote_secondary(pair(sync=SyncState.SYNCING), reason="x", **ID)
    assert caught.value.code == "not-in-sync"


def test_going_alone_withdraws_the_mark():
    after = go_alone(pair(), reason="x", **ID)
    assert (after.epoch, after.secondary, after.sync) == (3, None, SyncState.NONE)


def test_nobody_goes_alone_twice():
    with pytest.raises(ConflictError):
        go_alone(pair(secondary=None), reason="x", **ID)


def test_both_sides_of_a_race_write_the_same_epoch_so_that_one_compare_fails():
    before = pair()
    assert go_alone(before, reason="p", **ID).epoch == promote_secondary(before, reason="s", **ID).epoch


FORGERIES = {
    "epoch goes back": {"epoch": 1},
    "epoch stands still while hosts move": {"secondary": None, "sync": "none"},
    "epoch jumps": {"epoch": 4, "secondary": None, "sync": "none"},
    "a stranger takes over": {"epoch": 3, "primary": "h3", "secondary": None, "sync": "none", "spares": ()},
    "promoted with a secondary": {"epoch": 3, "primary": "h2", "secondary": "h1"},
    "new secondary in sync at once": {"epoch": 3, "secondary": "h3", "spares": ()},
    "two copies on one host": {"epoch": 3, "secondary": "h1"},
    "another VM": {"uid": "other"},
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES.keys())
def test_forged_transitions_are_caught(change):
    with pytest.raises(BugError):
        check_transition(pair(), pair().with_(**change))


def test_since_when_it_is_unprotected_is_kept_through_attempts_and_cleared_in_sync():
    first = new_pair("web", UID, "h1", ("h2",), 0, request_id="r", now="t1")
    assert first.unprotected_since == "t1"
    trying = add_secondary(first, "h2", request_id="r", now="t2")
    failed = go_alone(trying, reason="x", request_id="r", now="t3")
    assert (trying.unprotected_since, failed.unprotected_since) == ("t1", "t1")
    safe = mark_in_sync(trying, request_id="r", now="t4")
    assert safe.unprotected_since == ""
    assert go_alone(safe, reason="x", request_id="r", now="t5").unprotected_since == "t5"
    assert promote_secondary(safe, reason="x", request_id="r", now="t6").unprotected_since == "t6"


def test_disks_are_kept_only_of_a_secondary_in_sync_and_two_at_most():
    present = pair(sync=SyncState.SYNCING)
    assert go_alone(present, reason="x", keep_copy=True, **ID).older == ()
    assert go_alone(pair(), reason="x", **ID).older == ()
    present = go_alone(pair(), reason="x", keep_copy=True, **ID)
    for host in ("h3", "h4"):
        present = mark_in_sync(add_secondary(present, host, **ID), **ID)
        present = go_alone(present, reason="x", keep_copy=True, **ID)
    assert [(one.host, one.epoch) for one in present.older] == [("h3", 4), ("h4", 6)]
    assert present.keeps_older("h3", 4)
    assert not present.keeps_older("h3", 6)
    assert not present.keeps_older("h2", 2)


def test_an_older_copy_that_is_filled_again_or_that_another_primary_would_have_to_fill_is_none():
    older = (OlderCopy(host="h2", epoch=1), OlderCopy(host="h3", epoch=3))
    adding = add_secondary(pair(5, secondary=None, spares=("h2",)).with_(older=older), "h2", **ID)
    assert adding.older == older[1:]
    assert promote_secondary(mark_in_sync(adding, **ID), reason="x", **ID).older == ()


STEPS = st.sampled_from(["alone", "promote", "add", "mark"])


@given(st.lists(STEPS, max_size=30), st.randoms())
def test_any_sequence_of_steps_keeps_the_invariants(steps, random):
    present = new_pair("web", UID, "h1", ("h2", "h3"), 0, **ID)
    check_transition(None, present)
    for step in steps:
        try:
            match step:
                case "alone":
                    after = go_alone(present, reason="x", **ID)
                case "promote":
                    after = promote_secondary(present, reason="x", **ID)
                case "add":
                    after = add_secondary(present, random.choice(present.spares), **ID)
                case "mark":
                    after = mark_in_sync(present, **ID)
        except (ConflictError, RefusedError):
            continue
        check_transition(present, after)
        assert sorted((*after.hosts, *after.spares)) == ["h1", "h2", "h3"]
        present = after
