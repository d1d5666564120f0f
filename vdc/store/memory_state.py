"""The state of a simulated cluster: revisions, history, leases and compaction as etcd has them.

No wall clock: time passes by `advance` alone. Everything is deterministic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vdc.model.errors import InvalidError
from vdc.store.protocol import (
    Change,
    ChangeKind,
    CommitResult,
    Delete,
    KeyValue,
    LeaseId,
    LeaseLostError,
    Listing,
    Put,
    RevisionGoneError,
    Unchanged,
)
from vdc.store.rules import check_commit


@dataclass(slots=True)
class _Lease:
    ttl_s: int
    expires_at: float


class MemoryCluster:
    """What several MemoryStores share. Revision 1 is the empty store, as in etcd."""

    def __init__(self) -> None:
        self.now = 0.0
        self.revision = 1
        self.compacted = 0
        self._items: dict[str, KeyValue] = {}
        self._history: list[Change] = []
        self._leases: dict[LeaseId, _Lease] = {}
        self._next_lease = 1
        self._delayed: list[Callable[[], object]] = []
        self._changed = asyncio.Event()

    def advance(self, seconds: float) -> None:
        """Let time pass; leases that run out meanwhile are revoked in the order in which they do."""
        self.now += seconds
        expired = sorted((one.expires_at, lease) for lease, one in self._leases.items())
        for expires_at, lease in expired:
            if expires_at <= self.now:
                self.revoke(lease)

    def get(self, key: str, at_revision: int = 0) -> KeyValue | None:
        """A key now, or as it was; raises RevisionGoneError, InvalidError for a future revision."""
        if not at_revision:
            return self._items.get(key)
        if at_revision > self.revision:
            raise InvalidError("required revision is a future revision", code="store-invalid")
        if at_revision < self.compacted:
            raise RevisionGoneError(f"revision {at_revision} was compacted")
        found = None
        for change in self._history:
            if change.revision <= at_revision and change.item and change.item.key == key:
                found = change.item if change.kind is ChangeKind.PUT else None
        return found

    def list(self, prefix: str) -> Listing:
        """Everything under a prefix."""
        found = (self._items[key] for key in sorted(self._items) if key.startswith(prefix))
        return Listing(self.revision, tuple(found))

    def commit(self, compares: Sequence[Unchanged], operations: Sequence[Put | Delete]) -> CommitResult:
        """Apply all or nothing. A commit that changes nothing makes no revision."""
        check_commit(compares, operations)
        for compare in compares:
            item = self._items.get(compare.key)
            if (item.mod_revision if item else 0) != compare.mod_revision:
                return CommitResult(succeeded=False, revision=self.revision)
        for one in operations:
            if isinstance(one, Put) and one.lease is not None and one.lease not in self._leases:
                raise LeaseLostError(f"lease {one.lease} does not exist")
        changes: list[Change] = []
        for one in operations:
            changes += [self._put(one)] if isinstance(one, Put) else self._deletions(self._matching(one))
        self._record(changes)
        return CommitResult(succeeded=True, revision=self.revision)

    def grant(self, ttl_s: int) -> LeaseId:
        """Make a lease."""
        lease = LeaseId(self._next_lease)
        self._next_lease += 1
        self._leases[lease] = _Lease(ttl_s, self.now + ttl_s)
        return lease

    def renew(self, lease: LeaseId) -> None:
        """Renew; raises LeaseLostError."""
        if lease not in self._leases:
            raise LeaseLostError(f"lease {lease} has expired")
        self._leases[lease].expires_at = self.now + self._leases[lease].ttl_s

    def revoke(self, lease: LeaseId) -> None:
        """End a lease and delete its keys, all in one revision."""
        if self._leases.pop(lease, None) is not None:
            keys = [key for key, item in sorted(self._items.items()) if item.lease == lease]
            self._record(self._deletions(keys))

    def compact(self, revision: int = 0) -> None:
        """Forget history before `revision` (0: before the present one)."""
        self.compacted = revision or self.revision
        old = {one.item.key: one for one in self._history if one.item and one.revision < self.compacted}
        kept = [one for one in old.values() if one.kind is ChangeKind.PUT]
        kept.sort(key=lambda one: one.revision)
        self._history = kept + [one for one in self._history if one.revision >= self.compacted]

    def delay(self, effect: Callable[[], object]) -> None:
        """Keep an effect for later: a request that is still on its way."""
        self._delayed.append(effect)

    def apply_delayed(self) -> None:
        """Let everything that is on its way arrive."""
        delayed, self._delayed = self._delayed, []
        for effect in delayed:
            effect()

    def changes_from(self, prefix: str, revision: int) -> tuple[Change, ...]:
        """The changes under a prefix from a revision on."""
        return tuple(
            one
            for one in self._history
            if one.revision >= revision and one.item and one.item.key.startswith(prefix)
        )

    def wake(self) -> None:
        """Make everybody who waits in `changed` look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait for the next change of anything."""
        await self._changed.wait()

    def _matching(self, deletion: Delete) -> Sequence[str]:
        if not deletion.is_prefix:
            return [deletion.key] if deletion.key in self._items else []
        return [key for key in sorted(self._items) if key.startswith(deletion.key)]

    def _put(self, put: Put) -> Change:
        revision = self.revision + 1
        old = self._items.get(put.key)
        created = old.create_revision if old else revision
        item = KeyValue(put.key, put.value, revision, created, put.lease)
        self._items[put.key] = item
        return Change(ChangeKind.PUT, revision, item)

    def _deletions(self, keys: Sequence[str]) -> Sequence[Change]:
        revision = self.revision + 1
        gone = [self._items.pop(key) for key in keys]
        tombs = [replace(one, value="", mod_revision=revision, create_revision=0, lease=None) for one in gone]
        return [Change(ChangeKind.DELETE, revision, one) for one in tombs]

    def _record(self, changes: Sequence[Change]) -> None:
        if changes:
            self.revision += 1
            self._history += changes
            self.wake()
