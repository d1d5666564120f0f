"""Writing and reading the cluster's events."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from contextlib import suppress

from pydantic import ValidationError

from vdc.control.clock import Clock
from vdc.model.event import Event, Severity
from vdc.store import keys
from vdc.store.protocol import Delete, Put, StateStore

MAX_EVENTS = 2_000
MAX_KEPT = 100


class EventLog:
    """Appends to the cluster's events; what cannot be written is not worth failing for, the caller logs it."""

    def __init__(self, store: StateStore, host: str, clock: Clock) -> None:
        self._store = store
        self._host = host
        self._clock = clock
        self._counter = itertools.count()
        self.kept: deque[Event] = deque(maxlen=MAX_KEPT)  # not stored yet: the store did not answer

    def make(
        self,
        name: str,
        code: str,
        sentence: str,
        *,
        epoch: int = 0,
        severity: Severity = Severity.NORMAL,
        figures: Mapping[str, float] | None = None,
        kind: str = "endophyte",
    ) -> Event:
        """An event of this host, now. Ids sort by time."""
        at = self._clock.wall()
        return Event(
            id=f"{at}-{self._host}-{next(self._counter) % 1000:03d}",
            at=at, host=self._host, kind=kind, name=name, epoch=epoch, code=code,
            severity=severity, sentence=sentence, figures=dict(figures or {}),
        )  # fmt: skip

    async def append(self, event: Event) -> None:
        """Store it. Raises as StateStore.commit does."""
        await self._store.commit([], [Put(keys.event(event.id), event.to_json())])

    def keep(self, event: Event) -> None:
        """Hold an event that cannot be stored now; `flush` stores it, `kept_of` shows it meanwhile."""
        self.kept.append(event)

    def kept_of(self, name: str | None) -> tuple[Event, ...]:
        """What waits to be stored; of one object or of all."""
        return tuple(event for event in self.kept if name is None or event.name == name)

    async def flush(self) -> None:
        """Store what waits; an event has its own key, so that storing it twice does no harm."""
        while self.kept:
            event = self.kept[0]
            await self.append(event)
            with suppress(ValueError):  # a newer one has pushed it out meanwhile
                self.kept.remove(event)


async def read_events(store: StateStore, *, name: str | None = None, limit: int = 200) -> tuple[Event, ...]:
    """The latest events, oldest first; of one object or of all."""
    events = []
    for item in (await store.list(keys.EVENTS)).items:
        try:
            event = Event.from_json(item.value)
        except ValidationError:
            continue  # written by a newer version; not worth hiding the others
        if name is None or event.name == name:
            events.append(event)
    return tuple(events[-limit:])


async def trim_events(store: StateStore) -> int:
    """Remove the oldest events above MAX_EVENTS; returns how many."""
    items = (await store.list(keys.EVENTS)).items
    surplus = items[: max(0, len(items) - MAX_EVENTS)]
    for start in range(0, len(surplus), 100):
        await store.commit([], [Delete(item.key) for item in surplus[start : start + 100]])
    return len(surplus)
