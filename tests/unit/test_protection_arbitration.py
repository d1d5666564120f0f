"""The arbitration record changes in the allowed ways and in no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protection_world import UID, pair

from vdc.model.errors import BugError, ConflictError, RefusedError
from vdc.model.pair import SyncState
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
