"""MemoryStore: the StateStore without a cluster, for simulation: same semantics, faults on request.

A store is one client; `client()` makes another one of the same cluster, with faults of its own. Time passes
by `advance` alone, and a run with the same calls gives the same results.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from enum import StrEnum

from vdc.store.memory_state import MemoryCluster
from vdc.store.protocol import (
    DEFAULT_DEADLINE_S,
    Change,
    ChangeKind,
    CommitResult,
    Delete,
    KeyValue,
    LeaseId,
    LeaseLostError,
    Listing,
    Put,
    StoreUnavailableError,
    Unchanged,
    UnknownOutcomeError,
)
from vdc.store.rules import check_commit, check_repeatable


class Fault(StrEnum):
    """What happens to one request. The last four concern commits; other requests just fail."""

    UNAVAILABLE = "unavailable"  # never arrives, and the client knows it
    LOST_REQUEST = "lost-request"  # unknown outcome, without effect
    LOST_ANSWER = "lost-answer"  # unknown outcome, with effect
    LATE = "late"  # unknown outcome, takes effect at `apply_delayed`
    REPEATED = "repeated"  # arrives twice, and the answer is that of the second


FaultHook = Callable[[str], Fault | None]


class MemoryStore:
    """One client of a simulated cluster."""

    def __init__(self, cluster: MemoryCluster | None = None) -> None:
        self.cluster = cluster or MemoryCluster()
        self.is_unavailable = False  # cut off: requests fail without effect, watches are silent
        self.fault_hook: FaultHook | None = None  # asked with the request's name before each request
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._resyncs = 0
        self._is_closed = False

    def client(self) -> MemoryStore:
        """Another client of the same cluster."""
        return MemoryStore(self.cluster)

    def advance(self, seconds: float) -> None:
        """Let time pass for the whole cluster."""
        self.cluster.advance(seconds)

    def fail_next(self, fault: Fault, request: str = "commit", count: int = 1) -> None:
        """Queue a fault for the next requests of that name: get, list, commit, commit_everywhere, ..."""
        self._faults[request].extend([fault] * count)

    def cut_off(self, *, is_unavailable: bool = True) -> None:
        """Separate this client from the cluster, or let it back."""
        self.is_unavailable = is_unavailable
        self.cluster.wake()

    def break_watches(self) -> None:
        """Every watch of this client misses something and reports RESYNC."""
        self._resyncs += 1
        self.cluster.wake()

    async def get(
        self, key: str, *, at_revision: int = 0, deadline_s: float = DEFAULT_DEADLINE_S
    ) -> KeyValue | None:
        """See StateStore."""
        await self._request("get")
        return self.cluster.get(key, at_revision)

    async def list(self, prefix: str, *, deadline_s: float = DEFAULT_DEADLINE_S) -> Listing:
        """See StateStore."""
        await self._request("list")
        return self.cluster.list(prefix)

    async def commit(
        self,
        compares: Sequence[Unchanged],
        operations: Sequence[Put | Delete],
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> CommitResult:
        """See StateStore."""
        return await self._commit("commit", compares, operations)

    async def commit_everywhere(
        self,
        compares: Sequence[Unchanged],
        operations: Sequence[Put | Delete],
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> CommitResult:
        """See StateStore."""
        check_repeatable(compares, operations)
        return await self._commit("commit_everywhere", compares, operations)

    async def grant_lease(self, ttl_s: int, *, deadline_s: float = DEFAULT_DEADLINE_S) -> LeaseId:
        """See StateStore."""
        await self._request("grant_lease")
        return self.cluster.grant(ttl_s)

    async def renew_lease(self, lease: LeaseId, *, deadline_s: float = DEFAULT_DEADLINE_S) -> None:
        """See StateStore."""
        await self._request("renew_lease")
        self.cluster.renew(lease)

    async def revoke_lease(self, lease: LeaseId, *, deadline_s: float = DEFAULT_DEADLINE_S) -> None:
        """See StateStore."""
        await self._request("revoke_lease")
        self.cluster.revoke(lease)

    def watch(self, prefix: str, *, from_revision: int = 0) -> AsyncGenerator[Change, None]:
        """See StateStore. "From now" means from this call."""
        return self._changes(prefix, from_revision or self.cluster.revision + 1, self._resyncs)

    async def close(self) -> None:
        """End the watches."""
        self._is_closed = True
        self.cluster.wake()

    async def _changes(self, prefix: str, revision: int, resyncs: int) -> AsyncGenerator[Change, None]:
        while not self._is_closed:
            if self.is_unavailable:
                await self.cluster.changed()
                continue
            if resyncs != self._resyncs or revision < self.cluster.compacted:
                resyncs, revision = self._resyncs, self.cluster.revision + 1
                yield Change(ChangeKind.RESYNC, revision - 1)
                continue
            found = self.cluster.changes_from(prefix, revision)
            revision = max(revision, self.cluster.revision + 1)
            for change in found:
                yield change
            if revision > self.cluster.revision and not self._is_closed and resyncs == self._resyncs:
                await self.cluster.changed()

    async def _request(self, name: str) -> None:
        """Raise where a fault is due. Other requests than commits are safe to repeat, so they just fail."""
        if await self._fault(name) is not None:
            raise StoreUnavailableError(f"injected into {name}")

    async def _fault(self, name: str) -> Fault | None:
        await asyncio.sleep(0)
        if self._is_closed or self.is_unavailable:
            return Fault.UNAVAILABLE
        if self._faults[name]:
            return self._faults[name].popleft()
        return self.fault_hook(name) if self.fault_hook else None

    async def _commit(
        self, name: str, compares: Sequence[Unchanged], operations: Sequence[Put | Delete]
    ) -> CommitResult:
        check_commit(compares, operations)

        def arrive() -> None:
            with suppress(LeaseLostError):
                self.cluster.commit(compares, operations)

        match await self._fault(name):
            case None:
                return self.cluster.commit(compares, operations)
            case Fault.UNAVAILABLE:
                raise StoreUnavailableError(f"injected into {name}: without effect")
            case Fault.REPEATED:
                arrive()
                return self.cluster.commit(compares, operations)
            case Fault.LOST_ANSWER:
                arrive()
            case Fault.LATE:
                self.cluster.delay(arrive)
            case Fault.LOST_REQUEST:
                pass
        raise UnknownOutcomeError(f"injected into {name}: unknown outcome")
