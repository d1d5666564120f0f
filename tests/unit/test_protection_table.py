"""The transition table is total, reachable, and says what failover.md says."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from vdc.protection.events import PREDICATES, Event
from vdc.protection.table import TABLE, Action, State

SPEAKING = {Action.PROMOTE, Action.GO_ALONE}


def rows(state):
    return [row for row in TABLE if row.state is state]


@pytest.mark.parametrize("state", State)
def test_every_state_ends_in_a_row_that_always_holds(state):
    found = rows(state)
    assert found, f"{state} has no rows"
    assert found[-1].event is Event.ALWAYS
    assert [row.event for row in found].count(Event.ALWAYS) == 1


def test_no_event_stands_twice_in_a_state():
    counted = Counter((row.state, row.event) for row in TABLE)
    assert [pair for pair, number in counted.items() if number > 1] == []


def test_every_event_has_a_predicate_and_is_used():
    assert set(PREDICATES) == set(Event)
    assert {row.event for row in TABLE} == set(Event)


def test_every_state_can_be_reached():
    stages_set_by_actions = {  # by the supervisor while an action runs, or remembered over a restart of the agent
        State.OUTSIDE, State.STRAY, State.P_PREPARING, State.P_ENTERING, State.P_LEAVING, State.P_FAILED,
        State.S_PREPARING, State.S_ABSENT,
    }  # fmt: skip
    reached = {row.to for row in TABLE} | stages_set_by_actions
    assert set(State) - reached == set()


def test_only_a_secondary_in_lockstep_is_ever_promoted():
    assert {row.state for row in TABLE if row.action is Action.PROMOTE} == {State.S_LOCKSTEP}


def test_disks_are_removed_only_where_nothing_names_this_host_or_deletion_is_wanted():
    removing = {(row.state, row.event) for row in TABLE if row.action in (Action.SWEEP, Action.DISCARD)}
    assert removing == {
        (State.OUTSIDE, Event.LEFTOVERS), (State.P_ABSENT, Event.DELETION_WANTED), (State.STRAY, Event.ALWAYS),
    }  # fmt: skip


def test_only_primaries_go_alone():
    assert all(row.state.startswith("p_") for row in TABLE if row.action is Action.GO_ALONE)


def test_a_dead_process_is_noticed_before_anything_else_that_needs_it():
    needs_process = {
        Action.ENTER,
        Action.MARK,
        Action.LEAVE,
        Action.PAUSE,
        Action.RESUME,
        Action.ISOLATE,
        Action.POWER_DOWN,
    }
    by_state = defaultdict(list)
    for row in TABLE:
        by_state[row.state].append(row)
    for state, found in by_state.items():
        if any(row.action in needs_process for row in found):
            assert found[0].event is Event.QEMU_GONE, state


def test_sentences_name_only_what_is_always_known():
    for row in TABLE:
        row.sentence.format(me="h1", epoch=1, primary="h1", secondary="h2", name="web")
