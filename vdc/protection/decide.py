"""The one decision: from what is known to what this host does next, with the sentence that explains it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from vdc.model.endophyte import CopyRole, CopyStage
from vdc.protection.events import PREDICATES
from vdc.protection.snapshot import Snapshot
from vdc.protection.table import TABLE, Action, Row, State

_PRIMARY_STATES: Mapping[CopyStage, State] = {
    CopyStage.ABSENT: State.P_ABSENT,
    CopyStage.PREPARING: State.P_PREPARING,
    CopyStage.RUNNING: State.P_RUNNING,
    CopyStage.ENTERING: State.P_ENTERING,
    CopyStage.CHECKPOINTING: State.P_CHECKPOINTING,
    CopyStage.LOCKSTEP: State.P_LOCKSTEP,
    CopyStage.PROMOTING: State.P_PROMOTING,
    CopyStage.LEAVING: State.P_LEAVING,
    CopyStage.PAUSED: State.P_PAUSED,
    CopyStage.ISOLATED: State.P_ISOLATED,
    CopyStage.DEAD: State.P_DEAD,
    CopyStage.FAILED: State.P_FAILED,
}
_SECONDARY_STATES: Mapping[CopyStage, State] = {
    CopyStage.ABSENT: State.S_ABSENT,
    CopyStage.PREPARING: State.S_PREPARING,
    CopyStage.READY: State.S_READY,
    CopyStage.CHECKPOINTING: State.S_CHECKPOINTING,
    CopyStage.LOCKSTEP: State.S_LOCKSTEP,
    CopyStage.DEAD: State.S_DEAD,
    CopyStage.FAILED: State.S_FAILED,
}


def _rows_by_state() -> Mapping[State, tuple[Row, ...]]:
    rows: defaultdict[State, list[Row]] = defaultdict(list)
    for row in TABLE:
        rows[row.state].append(row)
    return {state: tuple(found) for state, found in rows.items()}


_ROWS = _rows_by_state()


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now. `row` is the rule that was applied."""

    action: Action
    row: Row
    sentence: str


def classify(snapshot: Snapshot) -> State:
    """Name this host's part. A copy in another role than the record's, or fenced as secondary, is a stray."""
    copy, pair, role = snapshot.copy, snapshot.pair, snapshot.role
    if copy.role is None:
        if role is CopyRole.PRIMARY:
            return State.P_ABSENT
        return State.S_ABSENT if role is CopyRole.SECONDARY else State.OUTSIDE
    if pair is None or role is None:
        return State.STRAY if copy.alive else State.OUTSIDE
    if copy.role is not role:
        return State.STRAY
    if role is CopyRole.PRIMARY:
        return _PRIMARY_STATES[copy.stage]
    return State.STRAY if copy.epoch != pair.epoch else _SECONDARY_STATES[copy.stage]


def decide(snapshot: Snapshot) -> Decision:
    """Apply the first row of the table that holds. Total: every state ends in a row that always holds."""
    state = classify(snapshot)
    for row in _ROWS[state]:
        if PREDICATES[row.event](snapshot):
            return Decision(row.action, row, _sentence(row, snapshot))
    raise AssertionError(f"state {state} has no last row")


def _sentence(row: Row, snapshot: Snapshot) -> str:
    pair = snapshot.pair
    return row.sentence.format(
        me=snapshot.me,
        name=pair.name if pair else "",
        epoch=pair.epoch if pair else "?",
        primary=pair.primary if pair else "nobody",
        secondary=(pair.secondary if pair else None) or "nobody",
    )
