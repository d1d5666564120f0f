"""Keeps the events and the audit log from growing without end, and says when what goes was still young."""

from __future__ import annotations

from datetime import datetime, timedelta

from vdc.control.events import EventLog, trim_events
from vdc.model.event import Severity
from vdc.store.audit import AuditLog
from vdc.store.protocol import StateStore

YOUNG = timedelta(days=30)


class Trimmer:
    """One per controller; warns once a day."""

    def __init__(self, store: StateStore, events: EventLog, audit: AuditLog | None = None) -> None:
        self._store = store
        self._events = events
        self._audit = audit or AuditLog(store)
        self._warned_on = ""

    async def run(self) -> None:
        """Remove what is beyond the limits. Raises as the store does."""
        await trim_events(self._store)
        trimmed = await self._audit.trim()
        warning = self._events.make(
            "audit", "audit-trimmed",
            f"the audit log lost its oldest entries, up to those of {trimmed.last_at}: it is full",
            severity=Severity.WARNING, kind="cluster",
        )  # fmt: skip
        today = warning.at[:10]
        if trimmed.last_at and self._warned_on != today and _age(trimmed.last_at, warning.at) < YOUNG:
            self._warned_on = today
            await self._events.append(warning)


def _age(then: str, now: str) -> timedelta:
    return datetime.fromisoformat(now) - datetime.fromisoformat(then)
