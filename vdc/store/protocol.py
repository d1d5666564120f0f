"""The StateStore protocol: what the rest of the product may ask of the cluster's state.

Every write is a transaction with compares. A watch is a hint: it may end, it may skip; whoever decides
something decides it by a commit's compare, never by a read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType, Protocol, runtime_checkable

from vdc.model.errors import UnavailableError

LeaseId = NewType("LeaseId", int)
DEFAULT_DEADLINE_S = 2.0


class StoreUnavailableError(UnavailableError):
    """The store did not answer, and the request certainly took no effect (or was a read)."""

    default_code = "store-unavailable"
    default_hint = "more than half of the hosts have to answer: vdc doctor"


class UnknownOutcomeError(UnavailableError):
    """A commit was sent and no answer came: it may or may not have taken effect. Read back before acting."""

    default_code = "store-unknown-outcome"


class LeaseLostError(UnavailableError):
    """The lease has expired or was revoked; keys attached to it are gone. What named it took no effect."""

    default_code = "store-lease-lost"


class RevisionGoneError(UnavailableError):
    """History before this revision was compacted away; the present state can still be read."""

    default_code = "store-revision-gone"


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as it was at one revision. `mod_revision` is what compares refer to."""

    key: str
    value: str
    mod_revision: int
    create_revision: int
    lease: LeaseId | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys under a prefix at one revision; watch from `revision + 1` to miss nothing."""

    revision: int
    items: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Compare: the key was last modified at `mod_revision`; 0 means that it does not exist."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value, attached to a lease or to none."""

    key: str
    value: str
    lease: LeaseId | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove one key, or every key that begins with it."""

    key: str
    is_prefix: bool = False


@dataclass(frozen=True, slots=True)
class CommitResult:
    """`succeeded` is False where a compare failed: nothing was written."""

    succeeded: bool
    revision: int


class ChangeKind(StrEnum):
    """What a watch reports."""

    PUT = "put"
    DELETE = "delete"
    RESYNC = "resync"  # revisions were missed (compaction, reconnect); list again


@dataclass(frozen=True, slots=True)
class Change:
    """One change under the watched prefix. `item` is None for RESYNC; for DELETE its value is empty."""

    kind: ChangeKind
    revision: int
    item: KeyValue | None = None


@runtime_checkable
class StateStore(Protocol):
    """A linearizable key-value store with transactions, leases and watches."""

    async def get(
        self, key: str, *, at_revision: int = 0, deadline_s: float = DEFAULT_DEADLINE_S
    ) -> KeyValue | None:
        """Read one key (linearizable), as it is or as it was at a revision.

        Raises StoreUnavailableError, RevisionGoneError.
        """
        ...

    async def list(self, prefix: str, *, deadline_s: float = DEFAULT_DEADLINE_S) -> Listing:
        """Read every key that begins with `prefix`, in key order, at one revision."""
        ...

    async def commit(
        self,
        compares: Sequence[Unchanged],
        operations: Sequence[Put | Delete],
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> CommitResult:
        """Apply all operations if every compare holds, else none.

        Raises StoreUnavailableError where it certainly took no effect, UnknownOutcomeError where nobody
        knows, LeaseLostError where a Put names a lease that is gone (nothing was written), InvalidError where
        the store can never accept it (too large, a key written twice).
        """
        ...

    async def commit_everywhere(
        self,
        compares: Sequence[Unchanged],
        operations: Sequence[Put | Delete],
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> CommitResult:
        """Send the same commit to every member at once; the first definite answer counts. As `commit`, but:

        `succeeded` is False also where another copy of this very commit was applied first, so after False
        the caller has to read back. Some compare must be on a key that an operation writes, else a second
        copy would be applied too: BugError. `vdc.store.arbitration` is the way to use it.
        """
        ...

    async def grant_lease(self, ttl_s: int, *, deadline_s: float = DEFAULT_DEADLINE_S) -> LeaseId:
        """Make a lease that expires `ttl_s` seconds after its last renewal."""
        ...

    async def renew_lease(self, lease: LeaseId, *, deadline_s: float = DEFAULT_DEADLINE_S) -> None:
        """Renew; raises LeaseLostError where it is gone."""
        ...

    async def revoke_lease(self, lease: LeaseId, *, deadline_s: float = DEFAULT_DEADLINE_S) -> None:
        """End the lease and delete its keys; no error where it is gone already."""
        ...

    def watch(self, prefix: str, *, from_revision: int = 0) -> AsyncGenerator[Change, None]:
        """Yield changes under `prefix` from `from_revision` on (0: from now), for ever.

        Survives the loss of members by reconnecting; where revisions may have been missed it yields RESYNC.
        """
        ...

    async def close(self) -> None:
        """Release connections; the store must not be used afterwards."""
        ...
