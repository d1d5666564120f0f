"""Electing the one agent that runs the cluster-wide controller, by a key attached to a lease.

Two leaders for a moment (a paused process that wakes up) do no harm: every write of the controller is a
transaction with compares on what it looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from vdc.model.errors import UnavailableError
from vdc.store import keys
from vdc.store.protocol import LeaseId, Put, StateStore, Unchanged

RETRY_S = 0.5


class Election:
    """Stands for election for ever; while elected, `lead` runs and is cancelled when the lease is lost."""

    def __init__(self, store: StateStore, host: str, ttl_s: int) -> None:
        self._store = store
        self._host = host
        self._ttl_s = ttl_s
        self.is_leader = False

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Never returns; survives any time without the store."""
        while True:
            try:
                lease = await self._win()
                await self._lead_while_held(lease, lead)
            except UnavailableError:
                pass
            finally:
                self.is_leader = False
            await asyncio.sleep(RETRY_S)

    async def _win(self) -> LeaseId:
        while True:
            if await self._store.get(keys.LEADER) is None:
                lease = await self._store.grant_lease(self._ttl_s)
                put = Put(keys.LEADER, self._host, lease)
                if (await self._store.commit([Unchanged(keys.LEADER, 0)], [put])).succeeded:
                    return lease
                await self._store.revoke_lease(lease)
            await asyncio.sleep(RETRY_S)

    async def _lead_while_held(self, lease: LeaseId, lead: Callable[[], Awaitable[None]]) -> None:
        self.is_leader = True
        leading = asyncio.ensure_future(lead())
        try:
            while not leading.done():
                await asyncio.wait([leading], timeout=self._ttl_s / 3)
                await self._store.renew_lease(lease, deadline_s=self._ttl_s / 2)
            await leading
        finally:
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)
            with suppress(UnavailableError):  # so that the next leader need not wait for its end
                await self._store.revoke_lease(lease, deadline_s=0.5)
