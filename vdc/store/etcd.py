"""EtcdStore: the StateStore over a real etcd cluster.

Reads are linearizable and hedged over the members. A commit goes to one member after another as long as
each certainly did not apply it; the first doubt ends it with UnknownOutcomeError. `commit_everywhere` goes
to all at once and is meant for `vdc.store.arbitration`.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, NoReturn, TypeVar

from vdc.model.errors import InvalidError
from vdc.store import etcd_codec as codec
from vdc.store.etcd_admin import EtcdAdmin
from vdc.store.etcd_client import Endpoints, Gateway
from vdc.store.etcd_errors import CallError, Meaning
from vdc.store.etcd_race import Race
from vdc.store.etcd_watch import Watch, WatchTimings
from vdc.store.protocol import (
    DEFAULT_DEADLINE_S,
    Change,
    CommitResult,
    Delete,
    KeyValue,
    LeaseId,
    LeaseLostError,
    Listing,
    Put,
    RevisionGoneError,
    StoreUnavailableError,
    Unchanged,
    UnknownOutcomeError,
)
from vdc.store.rules import check_repeatable

_T = TypeVar("_T")
_RETRY_PAUSE_S = 0.02
_LEASE_ID_BITS = 62


class EtcdStore:
    """The StateStore over etcd members at `https://ADDRESS:PORT`, the nearest first."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        ssl: ssl_module.SSLContext | None = None,
        hedge_s: float = 0.15,
        watch_timings: WatchTimings | None = None,
    ) -> None:
        """`hedge_s`: a read that has no answer by then is sent to the next member too."""
        self._endpoints = Endpoints(endpoints)
        self._gateway = Gateway(self._endpoints, ssl)
        self._hedge_s = hedge_s
        self._watch_timings = watch_timings or WatchTimings()
        self.admin = EtcdAdmin(self._gateway)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every member's address."""
        return self._endpoints.all

    def use_ssl(self, ssl: ssl_module.SSLContext) -> None:
        """Show this and trust this from the next connection on; what is under way goes on."""
        self._gateway.use_ssl(ssl)

    def use_only(self, endpoints: Sequence[str]) -> None:
        """Ask these members alone from now on: the others keep an older lineage."""
        self._endpoints.use_only(endpoints)

    async def get(
        self, key: str, *, at_revision: int = 0, deadline_s: float = DEFAULT_DEADLINE_S
    ) -> KeyValue | None:
        """Read one key; see StateStore."""
        answer = await self._read("/v3/kv/range", codec.get_request(key, at_revision), deadline_s)
        return next(iter(codec.key_values(answer)), None)

    async def list(self, prefix: str, *, deadline_s: float = DEFAULT_DEADLINE_S) -> Listing:
        """Read every key under a prefix; see StateStore."""
        answer = await self._read("/v3/kv/range", codec.list_request(prefix), deadline_s)
        return Listing(codec.revision_of(answer), codec.key_values(answer))

    async def commit(
        self,
        compares: Sequence[Unchanged],
        operations: Sequence[Put | Delete],
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> CommitResult:
        """Apply all or nothing; see StateStore."""
        body = codec.txn_request(compares, operations)
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        last: CallError | None = None
        while True:
            for endpoint in self._endpoints.in_order():
                left_s = end - loop.time()
                if left_s <= 0:
                    _raise(last or CallError(endpoint, Meaning.NO_EFFECT, "the deadline had passed"))
                try:
                    return _commit_result(
                        await self._gateway.call(endpoint, "/v3/kv/txn", body, timeout_s=left_s)
                    )
                except CallError as error:
                    if error.meaning is not Meaning.NO_EFFECT:
                        _raise(error)
                    last = error
            await asyncio.sleep(min(_RETRY_PAUSE_S, max(0.0, end - loop.time())))

    async def commit_everywhere(
        self,
        compares: Sequence[Unchanged],
        operations: Sequence[Put | Delete],
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> CommitResult:
        """Send one commit to all members at once; see StateStore."""
        check_repeatable(compares, operations)
        body = codec.txn_request(compares, operations)

        async def attempt(endpoint: str, timeout_s: float) -> CommitResult:
            # A member without a leader keeps the proposal and makes it as soon as there is one.
            return _commit_result(
                await self._gateway.call(
                    endpoint, "/v3/kv/txn", body, timeout_s=timeout_s, requires_leader=False
                )
            )

        return await self._race(attempt, hedge_s=0.0, deadline_s=deadline_s)

    async def grant_lease(self, ttl_s: int, *, deadline_s: float = DEFAULT_DEADLINE_S) -> LeaseId:
        """Make a lease; see StateStore. A repeated request may leave a second one, which expires."""
        answer = await self._read("/v3/lease/grant", {"TTL": str(ttl_s)}, deadline_s, hedge_s=deadline_s)
        return LeaseId(int(answer["ID"]))

    async def renew_lease(self, lease: LeaseId, *, deadline_s: float = DEFAULT_DEADLINE_S) -> None:
        """Renew; see StateStore."""
        answer = await self._read("/v3/lease/keepalive", {"ID": str(lease)}, deadline_s)
        if int(answer.get("result", {}).get("TTL", 0)) <= 0:
            raise LeaseLostError(f"lease {lease:x} has expired")

    async def revoke_lease(self, lease: LeaseId, *, deadline_s: float = DEFAULT_DEADLINE_S) -> None:
        """End the lease; see StateStore."""
        try:
            await self._read("/v3/lease/revoke", {"ID": str(lease)}, deadline_s)
        except LeaseLostError:
            return

    def watch(self, prefix: str, *, from_revision: int = 0) -> AsyncGenerator[Change, None]:
        """Yield changes for ever; see StateStore. Ends when the store is closed.

        Wrap it in `contextlib.aclosing` where the loop may be left, so that its connection goes at once.
        """
        return Watch(self._gateway, self._watch_timings, prefix, from_revision).changes()

    async def close(self) -> None:
        """Close every connection."""
        await self._gateway.close()

    async def _read(
        self, path: str, body: codec.Json, deadline_s: float, *, hedge_s: float | None = None
    ) -> codec.Json:
        async def attempt(endpoint: str, timeout_s: float) -> codec.Json:
            return await self._gateway.call(endpoint, path, body, timeout_s=timeout_s)

        hedge_s = self._hedge_s if hedge_s is None else hedge_s
        try:
            return await self._race(attempt, hedge_s=hedge_s, deadline_s=deadline_s)
        except UnknownOutcomeError as error:
            raise StoreUnavailableError(str(error)) from error

    async def _race(
        self, attempt: Callable[[str, float], Coroutine[Any, Any, _T]], *, hedge_s: float, deadline_s: float
    ) -> _T:
        try:
            return await Race(self._endpoints, attempt, hedge_s=hedge_s, deadline_s=deadline_s).winner()
        except CallError as error:
            _raise(error)


def _commit_result(answer: codec.Json) -> CommitResult:
    return CommitResult(succeeded=bool(answer.get("succeeded", False)), revision=codec.revision_of(answer))


def _raise(error: CallError) -> NoReturn:
    """The store's error for a member's."""
    text = f"etcd: {error}"
    match error.meaning:
        case Meaning.NO_EFFECT:
            raise StoreUnavailableError(text) from error
        case Meaning.UNKNOWN:
            raise UnknownOutcomeError(text) from error
        case Meaning.LEASE_GONE:
            raise LeaseLostError(text) from error
        case Meaning.COMPACTED:
            raise RevisionGoneError(text) from error
        case Meaning.DENIED:
            raise StoreUnavailableError(
                text, hint="etcd asks for authentication", code="store-denied"
            ) from error
        case Meaning.INVALID:
            raise InvalidError(text, code="store-invalid") from error
