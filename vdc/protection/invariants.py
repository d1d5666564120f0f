"""The invariants of failover.md as a check that every transition of the arbitration record must pass.

`check_transition` runs before each compare-and-swap, in simulation and in the running agent alike: a record
that would break an invariant is never written.
"""

from __future__ import annotations

from vdc.model.errors import BugError
from vdc.model.pair import Pair, SyncState


def check_pair(pair: Pair) -> None:
    """Raise BugError where one version contradicts itself."""
    if pair.secondary == pair.primary:
        raise BugError(f"I1: {pair.name} has both copies on {pair.primary}")
    if (pair.secondary is None) != (pair.sync is SyncState.NONE):
        raise BugError(f"I3: {pair.name} says {pair.sync} with secondary {pair.secondary}")
    if pair.primary in pair.spares or (pair.secondary and pair.secondary in pair.spares):
        raise BugError(f"a host of {pair.name} is its own spare")


def check_transition(before: Pair | None, after: Pair) -> None:
    """Raise BugError where `after` must not follow `before`."""
    check_pair(after)
    if before is None:
        if after.epoch != 1 or after.secondary is not None:
            raise BugError(f"{after.name} must begin at epoch 1 and alone")
        return
    if (before.name, before.uid) != (after.name, after.uid):
        raise BugError("a pair never changes its identity")
    if after.lineage < before.lineage:
        raise BugError(f"I2: {after.name} went from lineage {before.lineage} to {after.lineage}")
    moved = before.hosts != after.hosts
    if after.epoch != before.epoch + (1 if moved else 0):
        raise BugError(f"I2: {after.name} went from epoch {before.epoch} to {after.epoch}")
    if after.primary != before.primary:
        if before.sync is not SyncState.IN_SYNC or after.primary != before.secondary:
            raise BugError(f"I3: {after.primary} took {after.name} over without being in sync")
        if after.secondary is not None:
            raise BugError(f"I4: {after.name} was promoted and kept a secondary")
    if after.sync is SyncState.IN_SYNC and moved:
        raise BugError(f"I3: {after.name} is in sync with a copy that was just added")
