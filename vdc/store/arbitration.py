"""Arbitration: one compare-and-swap on one key, decided within a deadline or reported as undecided.

The swap goes to every member of the store at once, again and again in short attempts: a member that was about
to lose its leader may have swallowed the first one. A second application fails its compare, so repeating is
safe, but then "the compare failed" may mean that our own copy was first. The `request_id` inside the stored
JSON decides whose it was, and where somebody has written over it since, the key's history does.

Invariants: Won only if our value was written; Lost only if it was not and never will be. Whatever cannot be
proved is UnknownOutcomeError: the swap may even take effect after it was raised, so read again before acting.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from vdc.model.errors import BugError
from vdc.store.protocol import (
    Change,
    ChangeKind,
    KeyValue,
    Put,
    RevisionGoneError,
    StateStore,
    StoreUnavailableError,
    Unchanged,
    UnknownOutcomeError,
)

_FIRST_ATTEMPT_S = 0.06
_LONGEST_ATTEMPT_S = 0.5
_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Won:
    """Our value was written, at `revision`.

    `is_superseded`: somebody has already changed it since, to `current` (None: deleted). Then what was won no
    longer holds, and the caller has to act on `current`.
    """

    revision: int
    is_superseded: bool = False
    current: KeyValue | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Somebody else's change came first; ours never takes effect. `current` is None where the key is gone."""

    current: KeyValue | None


async def arbitrate(  # noqa: PLR0917 - the swap's own fields, in the order of the sentence
    store: StateStore,
    key: str,
    expected_mod_revision: int,
    value: str,
    request_id: str,
    deadline_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Won | Lost:
    """Replace the key's value if it is still that of `expected_mod_revision` (so the key has to exist).

    `value` is a JSON object whose `request_id` is `request_id`, unique to this call. Raises
    UnknownOutcomeError where the deadline passes undecided, StoreUnavailableError where it passes and the
    swap certainly was and will be without effect, BugError where `value` does not carry the id.
    """
    if expected_mod_revision < 1:
        raise BugError("an arbitration is about a key that exists; make it with a commit")
    if not request_id or request_id_of(value) != request_id:
        raise BugError("the value of an arbitration must carry its request id")
    end = clock() + deadline_s
    attempt_s = _FIRST_ATTEMPT_S
    doubt: UnknownOutcomeError | None = None
    refusal: StoreUnavailableError | None = None
    while (left_s := end - clock()) > 0:
        try:
            result = await store.commit_everywhere(
                [Unchanged(key, expected_mod_revision)],
                [Put(key, value)],
                deadline_s=min(attempt_s, left_s),
            )
            if result.succeeded:
                return Won(result.revision)
            return await _decide(store, key, expected_mod_revision, value, deadline_s=max(0.0, end - clock()))
        except UnknownOutcomeError as error:
            doubt = error
        except StoreUnavailableError as error:
            refusal = error
        attempt_s = min(_LONGEST_ATTEMPT_S, attempt_s * _GROWTH)
    if doubt is None and refusal is not None:
        raise refusal
    raise UnknownOutcomeError(
        f"whether {key} was changed by request {request_id} cannot be known within {deadline_s:g} s"
    ) from doubt


async def _decide(store: StateStore, key: str, expected: int, value: str, *, deadline_s: float) -> Won | Lost:
    """After a failed compare: whose change came first? Raises UnknownOutcomeError while nobody can say."""
    request_id = request_id_of(value)
    try:
        async with asyncio.timeout(deadline_s):
            current = await store.get(key, deadline_s=deadline_s)
            if current is not None:
                if current.value == value:
                    return Won(current.mod_revision)
                before = await store.get(key, at_revision=current.mod_revision - 1, deadline_s=deadline_s)
                if before is not None and before.mod_revision == expected:
                    return Lost(current)  # a single change since, and not ours
            first = await _first_change(store, key, expected + 1)
    except (TimeoutError, StoreUnavailableError, RevisionGoneError) as error:
        raise UnknownOutcomeError(f"{key} has changed, and who changed it cannot be read: {error}") from error
    if first.kind is ChangeKind.RESYNC:
        raise UnknownOutcomeError(f"{key} has changed, and the history of who changed it was compacted")
    if first.item is not None and request_id_of(first.item.value) == request_id:
        return Won(first.revision, is_superseded=True, current=current)
    return Lost(current)


async def _first_change(store: StateStore, key: str, from_revision: int) -> Change:
    async with aclosing(store.watch(key, from_revision=from_revision)) as changes:
        async for change in changes:
            if change.item is None or change.item.key == key:
                return change
    raise StoreUnavailableError("the store was closed")


def request_id_of(value: str) -> str:
    """The request id in a stored record; empty where it has none."""
    try:
        document = json.loads(value)
    except ValueError:
        return ""
    found = document.get("request_id", "") if isinstance(document, dict) else ""
    return found if isinstance(found, str) else ""
