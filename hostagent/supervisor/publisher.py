"""Writes what this host says of its copy (the Observed record) for the others: news at once, figures now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hostagent.supervisor.host import HostContext
from vdc.model.endophyte import Observed
from vdc.model.errors import UnavailableError
from vdc.store import keys
from vdc.store.protocol import Delete, KeyValue, Put

FIGURES_EVERY_S = 5.0
STORE_RETRY_S = 0.2
DEFECT_RETRY_S = 1.0


class Publisher:
    """One per supervisor. `record` makes the present record, without a uid where nothing is here."""

    def __init__(self, host: HostContext, name: str, record: Callable[[], Observed]) -> None:
        self._host = host
        self._name = name
        self._record = record
        self._due = asyncio.Event()
        self._published: Observed | None = None
        self._published_at_s = 0.0

    def look(self) -> None:
        """Something may be worth saying."""
        self._due.set()

    async def run(self) -> None:
        """Never returns."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._publish()
            except UnavailableError:
                await asyncio.sleep(STORE_RETRY_S)
                self._due.set()
            except Exception as error:  # this task's boundary: nobody would start it again
                self._host.log.exception("publishing failed", endophyte=self._name, why=repr(error))
                await asyncio.sleep(DEFECT_RETRY_S)
                self._due.set()

    async def _publish(self) -> None:
        host = self._host
        record = self._record()
        if not record.uid:
            endophyte = host.mirror.endophyte(self._name)
            if endophyte is None:
                await self._withdraw()
                return
            record = record.with_(uid=endophyte.uid)  # nothing is here (any more), and that is worth saying
        own, key = f"{self._name}/{host.name}", keys.observed(self._name, host.name)
        if self._is_news(record):
            try:
                done = await host.store.commit([], [Put(key, record.to_json())])
            except UnavailableError:
                host.mirror.unstored[own] = record  # what this agent itself shows meanwhile
                raise
            # The watch may be far behind after a time without the store, and what it last told may be a lie by now.
            host.mirror.apply_early(KeyValue(key, record.to_json(), done.revision, 0))
            self._published = record
            self._published_at_s = host.clock.boottime_s()
        host.mirror.unstored.pop(own, None)

    async def _withdraw(self) -> None:
        """The VM is gone, and so is what was here of it: nothing is left to say."""
        if self._published is not None:
            await self._host.store.commit([], [Delete(keys.observed(self._name, self._host.name))])
            self._published = None

    def _is_news(self, record: Observed) -> bool:
        """Whether its meaning changed, or its figures did and are due."""
        before = self._published
        if before is None or before.with_(checkpoints=record.checkpoints) != record:
            return True
        is_due = self._host.clock.boottime_s() - self._published_at_s >= FIGURES_EVERY_S
        return is_due and before.checkpoints != record.checkpoints
