"""Rules of the protection, each broken on purpose: the simulation is worth something if it notices every one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from unittest.mock import patch

from tests.simulation import rules, store
from tests.simulation.searches import BY_REGRESSION
from vdc.protection import arbitration, decide, events
from vdc.protection.events import Event
from vdc.protection.table import Action, Row, State


@contextmanager
def _patched(*patches: AbstractContextManager[object]) -> Iterator[None]:
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        rules.forget()
        try:
            yield
        finally:
            rules.forget()


def _row(state: State, event: Event, action: Action, to: State) -> AbstractContextManager[object]:
    """The table with another action in one row, or one row more."""
    rows = decide._ROWS[state]
    changed = tuple(Row(state, event, action, to, "broken") if row.event is event else row for row in rows)
    if changed == rows:
        changed = (Row(state, event, action, to, "broken"), *rows)
    return patch.dict(decide._ROWS, {state: changed})


def _never(event: Event) -> AbstractContextManager[object]:
    return patch.dict(events.PREDICATES, {event: lambda snapshot: False})


def _keep_mark(pair, *, reason, request_id, now):
    """The primary goes on alone, and the record goes on trusting the secondary."""
    return pair.with_(reason=reason, request_id=request_id, changed_at=now)


def _promote_anyhow(pair, *, reason, request_id, now):
    trusted = pair.with_(sync="in_sync")
    return _REAL_PROMOTE(trusted, reason=reason, request_id=request_id, now=now)


_REAL_PROMOTE = arbitration.promote_secondary


def _by_role_alone(snapshot):
    """`classify` without the comparison of epochs."""
    copy, role = snapshot.copy, snapshot.role
    if copy.role is not None and copy.role is role and snapshot.pair is not None:
        states = decide._PRIMARY_STATES if copy.role == "primary" else decide._SECONDARY_STATES
        return states[copy.stage]
    return _REAL_CLASSIFY(snapshot)


_REAL_CLASSIFY = decide.classify

_BROKEN: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "QEMU is told before the commit": lambda: rules.without("commit before QEMU"),
    "the commit does not compare": lambda: rules.without("compare"),
    "the in-sync mark is not withdrawn": lambda: _patched(patch.object(arbitration, "go_alone", _keep_mark)),
    "the epoch of a secondary is not checked": lambda: _patched(
        patch.object(decide, "classify", _by_role_alone)
    ),
    "a fenced copy is left alone": lambda: _patched(
        _row(State.STRAY, Event.ALWAYS, Action.HOLD, State.STRAY)
    ),
    "a stray loses its files, not its process": lambda: rules.without("a stray is killed"),
    "a secondary is promoted while it is filled": lambda: _patched(
        patch.object(arbitration, "promote_secondary", _promote_anyhow),
        patch.object(store, "check_transition", lambda before, after: None),
        _row(State.S_CHECKPOINTING, Event.QEMU_LEFT, Action.PROMOTE, State.P_PROMOTING),
    ),
    "an unknown outcome counts as won": lambda: rules.without("unknown is not won"),
    "an unknown outcome counts as lost": lambda: rules.without("unknown is not lost"),
    "the secondary's tap is live from the start": lambda: rules.without("tap live after the commit"),
    "a VM is started elsewhere when its host is silent": lambda: _patched(
        rules.without("no cold start elsewhere"), patch.object(store, "check_transition", lambda *_: None)
    ),
    "an old primary boots its disk when it returns": lambda: _patched(
        _row(State.STRAY, Event.ALWAYS, Action.START, State.P_RUNNING)
    ),
    "a dirty disk is booted": lambda: rules.without(
        "dirty is not bootable", "in sync is written to the disk"
    ),
    "the epoch is not on the disk first": lambda: rules.without("epoch on disk first"),
    "leaving lockstep does not remember the epoch": lambda: rules.without("leaving remembers first"),
    "a repeated take-over does not remember": lambda: rules.without("a take-over remembers first"),
    "an isolated primary goes on without asking": lambda: _patched(
        _row(State.P_ISOLATED, Event.ALWAYS, Action.LEAVE, State.P_RUNNING)
    ),
    "a new agent ends the guest that it finds": lambda: rules.without("adoption spares the guest"),
    "a cancelled entry into lockstep is left as it is": lambda: rules.without("a cancelled entry is undone"),
    "leaving lockstep is not gone on with": lambda: rules.without("leaving goes on"),
    "a QEMU that did not answer a new agent is not asked again": lambda: rules.without(
        "adoption looks again"
    ),
    "a planned switch commits before it asks for the fence": lambda: rules.without(
        "the fence before the commit"
    ),
    "a planned switch lets go of what a checkpoint may have undone": lambda: rules.without(
        "only a whole hold is opened"
    ),
    "a new agent lifts the fence of a lost epoch": lambda: rules.without("a lost epoch stays fenced"),
    "a primary goes on with a replica that the leader withdrew": lambda: _patched(
        _row(State.P_LOCKSTEP, Event.SECONDARY_WITHDRAWN, Action.HOLD, State.P_LOCKSTEP)
    ),
    "silence counts as death": lambda: rules.without("silence is not death"),
    "a deletion does not wait for the copies": lambda: rules.without("a deletion waits for its copies"),
    "a lost answer of the own promotion is never found out": lambda: _patched(
        _never(Event.TOOK_OVER_ALREADY)
    ),
    "a promoted copy that died is thrown away": lambda: _patched(_never(Event.WON_AND_DIED)),
    "a primary without its process waits for a useless secondary": lambda: _patched(
        _never(Event.SECONDARY_USELESS), _never(Event.PEER_SILENT_LONG)
    ),
}
# The search (searches.py) that notices it; "from nothing" where nothing else is said.
_NOTICED_BY = {
    "from lockstep": (
        "an old primary boots its disk when it returns",
        "a dirty disk is booted",
        "leaving lockstep does not remember the epoch",
        "a repeated take-over does not remember",
        "an isolated primary goes on without asking",
        "a deletion does not wait for the copies",
        "a promoted copy that died is thrown away",
    ),
    "from the copying on": (
        "leaving lockstep is not gone on with",
        "a cancelled entry into lockstep is left as it is",
    ),
    "a planned switch": (
        "a planned switch commits before it asks for the fence",
        "a planned switch lets go of what a checkpoint may have undone",
    ),
    "a planned switch, deeper": ("a new agent lifts the fence of a lost epoch",),
    BY_REGRESSION: ("a QEMU that did not answer a new agent is not asked again",),
    "from lockstep without a spare": ("the epoch of a secondary is not checked",),
}
_SEARCH = {name: search for search, names in _NOTICED_BY.items() for name in names}
MUTANTS = {name: (_SEARCH.get(name, "from nothing"), broken) for name, broken in _BROKEN.items()}
