"""Every (state, event) is a row, impossible, or ignored for a reason; every row can fire; every state is reached.

Snapshots are drawn from everything that a host may know, by a fixed seed.
"""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from protection_world import endophyte, observed, pair

from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.pair import SyncState
from vdc.protection.decide import classify, decide
from vdc.protection.events import PREDICATES, Event
from vdc.protection.snapshot import CopyView, PeerView, Snapshot
from vdc.protection.table import TABLE, State

DRAWS = 120_000
E, S = Event, State
PRIMARY = frozenset(state for state in State if state.startswith("p_"))
SECONDARY = frozenset(state for state in State if state.startswith("s_"))
RUNS = PRIMARY - {S.P_ABSENT, S.P_DEAD, S.P_FAILED, S.P_PREPARING}
OFTEN = {"alive": 0.7}
SELDOM = {"disk_failed": 0.1, "peer_disk_failed": 0.1, "disk_stopped": 0.15, "disk_full": 0.5}
FLAGS = (
    "alive", "has_files", "colo_ended", "guest_crashed", "guest_reset", "powered_off", "retry_due", *SELDOM,
)  # fmt: skip
# Why an event that may hold in a state has no row there: it changes nothing in what that state does.
IGNORED = {
    E.RECORD_UNKNOWN: "what a copy does without the store is said by `store_silent` where it matters",
    E.STORE_SILENT: "a copy that runs goes on; only an isolated one waits for the store",
    E.CUT_OFF: "only a primary in lockstep has somebody who could speak instead; others go on",
    E.RECORD_OLDER: "a mirror that lags is caught up with; every commit compares",
    E.EPOCH_MOVED: "the row for the secondary's withdrawal, or the action of that state, adopts it",
    E.SECONDARY_WITHDRAWN: "as `epoch_moved`",
    E.LEFTOVERS: "what lies on the disk is this copy's own",
    E.DELETION_WANTED: "the guest is ended first: `stop_wanted`",
    E.STOP_WANTED: "protection is ended first, and a step under way is finished first",
    E.PAUSE_WANTED: "protection is ended first, and a guest that is off cannot be paused",
    E.PROTECTION_UNWANTED: "the state has no lockstep to end, or ends it anyway",
    E.HAS_SECONDARY: "only decides where the copy here is dead, absent, paused or leaving",
    E.SECONDARY_MAY_SPEAK: "only decides where the copy here cannot speak",
    E.SECONDARY_READY: "only a primary that runs alone enters lockstep",
    E.SECONDARY_USELESS: "the state gives the secondary up anyway, or begins by it",
    E.CHECKPOINT_SEEN: "only tells a waiting secondary that the memory arrived",
    E.PROVEN: "only the first checkpoints wait for it",
    E.IN_SYNC: "what follows from the mark has been done, or cannot be",
    E.STALLED: "only a primary in lockstep waits for checkpoints; a secondary waits longer",
    E.STALLED_LATER: "the primary has acted on `stalled`",
    E.QEMU_GONE: "the state has no process, or its action makes or ends one",
    E.QEMU_LEFT: "only a secondary is told so; elsewhere it is what the action does",
    E.GUEST_POWERED_OFF: "lockstep ends first (`guest_reset`), then it is noted",
    E.GUEST_RESET: "only lockstep ends by it",
    E.GUEST_CRASHED: "only a secondary's guest is watched for it",
    E.PEER_COPY_DEAD: "a primary sees it as `secondary_useless`; only a copy in sync may take over",
    E.PEER_LOST: "nothing depends on the other host in this state",
    E.PEER_LOST_LATER: "only a secondary in sync may take over",
    E.PEER_LOST_UNDECIDED: "as `peer_lost_later`: it only says what the promotion waits for",
    E.PEER_SILENT_LONG: "only a dead copy waits for it",
    E.RETRY_DUE: "only a failed start waits for it",
    E.DISK_FAILED: "without lockstep the guest is stopped instead (`disk_stopped`), or there is no guest",
    E.PEER_DISK_FAILED: "only a primary in lockstep writes to the other disk",
    E.DISK_STOPPED: "only a primary that runs alone tries its disk again",
    E.DISK_FULL: "as `disk_stopped`",
}


def drawn():
    chance = random.Random(11)
    pairs = [
        None,
        *[pair(2, sync=SyncState.SYNCING)] * 6,
        *(pair(epoch, primary=p, secondary=s, sync=sync, spares=()) for epoch in (1, 2, 3)
          for p, s in (("h1", None), ("h1", "h2"), ("h2", "h1"), ("h2", None), ("h2", "h3"))
          for sync in (SyncState.SYNCING, SyncState.IN_SYNC)),
    ]  # fmt: skip
    wishes = [None, endophyte(), endophyte(), endophyte(run="stopped"), endophyte(run="paused"),
              endophyte(protect=False), endophyte(deleting=True), endophyte(restarts=1)]  # fmt: skip
    others = [None, *(observed("h2", role, stage, epoch=2, error=error) for role in CopyRole
                      for stage in (*CopyStage, CopyStage.READY, CopyStage.READY)
                      for error in ("", "trouble"))]  # fmt: skip
    silences = (0.0, 300.0, 500.0, 9_000.0)
    for _ in range(DRAWS):
        copy = CopyView(
            role=chance.choice([None, *CopyRole]), stage=chance.choice(list(CopyStage)),
            epoch=chance.choice([0, 1, 2, 3]), restarts=0, checkpoints=chance.choice([0, 1, 3]),
            lockstep_for_s=chance.choice([0.5, 3.0]), stalled_ms=chance.choice([0.0, 0.0, 2_100.0, 2_600.0]),
            **{flag: chance.random() < {**OFTEN, **SELDOM}.get(flag, 0.3) for flag in FLAGS},
        )  # fmt: skip
        peer = PeerView(chance.choice(silences), chance.choice(silences), copy_dead=chance.random() < 0.1)
        wish, record = chance.choice(wishes), chance.choice(pairs)
        yield Snapshot(
            me="h1", endophyte=wish, pair=record, copy=copy, peer=peer,
            is_orphan=wish is None and record is None and chance.random() < 0.5,
            peer_observed=chance.choice(others), store_silent_ms=chance.choice([0.0, 0.0, 3_000.0, 9_000.0]),
        )  # fmt: skip


@pytest.fixture(scope="module")
def seen():
    """Rows that fired, and per state the events that held."""
    rows, held = set(), defaultdict(set)
    for number, snapshot in enumerate(drawn()):
        try:
            state = classify(snapshot)
        except KeyError:
            continue  # a stage that this role never has
        rows.add(decide(snapshot).row)
        if number % 3 == 0:
            held[state] |= {event for event, holds in PREDICATES.items() if holds(snapshot)}
    return rows, held


def test_no_row_is_dead(seen):
    rows, _ = seen
    assert [f"{row.state}/{row.event}" for row in TABLE if row not in rows] == []


def test_every_event_of_every_state_is_a_row_impossible_or_ignored_for_a_reason(seen):
    _, held = seen
    rows = {(row.state, row.event) for row in TABLE}
    assert set(held) == set(State)
    open_ones = [
        (state, event) for state in State for event in held[state]
        if (state, event) not in rows and event not in IGNORED
    ]  # fmt: skip
    assert open_ones == []


def test_no_reason_is_given_in_vain(seen):
    _, held = seen
    rows = {(row.state, row.event) for row in TABLE}
    for event in IGNORED:
        assert any(event in held[state] and (state, event) not in rows for state in State), event


def test_rows_and_the_steps_around_them_lead_from_nothing_to_every_state():
    around = {  # what actions and other hosts bring about besides the row's own end
        S.OUTSIDE: {S.P_ABSENT, S.S_ABSENT}, S.P_ABSENT: {S.P_PREPARING, S.P_FAILED},
        S.S_ABSENT: {S.S_PREPARING, S.S_FAILED}, S.P_RUNNING: {S.P_ENTERING, S.STRAY},
        S.P_ENTERING: {S.P_LEAVING}, S.S_LOCKSTEP: {S.STRAY},
    }  # fmt: skip
    reached, open_states = set(), [S.OUTSIDE]
    while open_states:
        state = open_states.pop()
        if state in reached:
            continue
        reached.add(state)
        open_states += [row.to for row in TABLE if row.state is state]
        open_states += around.get(state, ())
    assert reached == set(State)
