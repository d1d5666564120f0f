"""How the arbitration record may change. Each function returns the next version of a Pair, or refuses.

The caller commits the result by compare-and-swap against the version that it started from; only after that
commit succeeded may it speak to QEMU (failover.md: win the arbitration first).
"""

from __future__ import annotations

from vdc.model.errors import BugError, ConflictError, RefusedError
from vdc.model.pair import MAX_OLDER_COPIES, OlderCopy, Pair, SyncState


def new_pair(
    name: str, uid: str, primary: str, spares: tuple[str, ...], slot: int, *, request_id: str, now: str
) -> Pair:
    """The first version: one copy, epoch 1, nobody beside it."""
    return Pair(
        name=name, uid=uid, epoch=1, primary=primary, spares=spares, slot=slot,
        request_id=request_id, reason=f"placed on {primary}", changed_at=now, unprotected_since=now,
    )  # fmt: skip


def go_alone(pair: Pair, *, reason: str, request_id: str, now: str, keep_copy: bool = False) -> Pair:
    """The primary goes on without its secondary; the secondary's host becomes a spare again.

    With `keep_copy` a secondary that is in sync keeps its disks, as of this epoch: the primary's agent records what
    is written since before it takes the lockstep out, and the next copy to that host is short.
    """
    if pair.secondary is None:
        raise ConflictError(f"{pair.name} has no secondary under epoch {pair.epoch}", code="no-secondary")
    return pair.with_(
        epoch=pair.epoch + 1, secondary=None, sync=SyncState.NONE,
        spares=_with_spare(pair, pair.secondary, excluding=pair.primary),
        request_id=request_id, reason=reason, changed_at=now, older=_older(pair, pair.secondary, keep=keep_copy),
        unprotected_since=now if pair.sync is SyncState.IN_SYNC else pair.unprotected_since,
    )  # fmt: skip


def promote_secondary(pair: Pair, *, reason: str, request_id: str, now: str) -> Pair:
    """The secondary becomes the primary, alone. Raises RefusedError unless the pair is in sync (invariant I3)."""
    if pair.secondary is None:
        raise ConflictError(f"{pair.name} has no secondary to promote", code="no-secondary")
    if pair.sync is not SyncState.IN_SYNC:
        raise RefusedError(
            f"the secondary of {pair.name} on {pair.secondary} is not in sync yet",
            code="not-in-sync",
            hint=f"wait until `vdc get endophyte {pair.name}` shows lockstep",
        )
    return pair.with_(
        epoch=pair.epoch + 1, primary=pair.secondary, secondary=None, sync=SyncState.NONE,
        spares=_with_spare(pair, pair.primary, excluding=pair.secondary), older=(),
        request_id=request_id, reason=reason, changed_at=now, unprotected_since=now,
    )  # fmt: skip


def add_secondary(pair: Pair, host: str, *, request_id: str, now: str) -> Pair:
    """Begin to fill a secondary on `host`; it must not be promoted before `mark_in_sync`."""
    if pair.secondary is not None:
        raise ConflictError(f"{pair.name} has a secondary on {pair.secondary} already", code="has-secondary")
    if host == pair.primary:
        raise BugError(f"primary and secondary of {pair.name} on one host ({host})")
    return pair.with_(
        epoch=pair.epoch + 1, secondary=host, sync=SyncState.SYNCING,
        spares=tuple(spare for spare in pair.spares if spare != host),
        request_id=request_id, reason=f"protecting on {host}", changed_at=now,
        older=tuple(older for older in pair.older if older.host != host),
    )  # fmt: skip


def mark_in_sync(pair: Pair, *, request_id: str, now: str) -> Pair:
    """The primary has seen enough checkpoints; from now on the secondary may be promoted. Same epoch."""
    if pair.secondary is None or pair.sync is not SyncState.SYNCING:
        raise ConflictError(f"{pair.name} is not syncing", code="not-syncing")
    return pair.with_(
        sync=SyncState.IN_SYNC, request_id=request_id,
        reason=f"{pair.primary} in lockstep with {pair.secondary}", changed_at=now, unprotected_since="",
    )  # fmt: skip


def with_spares(pair: Pair, spares: tuple[str, ...], *, request_id: str, now: str) -> Pair:
    """Other hosts are held ready. Says nothing about who may speak, so the epoch stays."""
    return pair.with_(spares=spares, request_id=request_id, changed_at=now)


def _older(pair: Pair, host: str, *, keep: bool) -> tuple[OlderCopy, ...]:
    others = tuple(older for older in pair.older if older.host != host)
    if not keep or pair.sync is not SyncState.IN_SYNC:
        return others
    return (*others, OlderCopy(host=host, epoch=pair.epoch))[-MAX_OLDER_COPIES:]


def _with_spare(pair: Pair, host: str, *, excluding: str) -> tuple[str, ...]:
    return (*(spare for spare in pair.spares if spare not in (host, excluding)), host)
