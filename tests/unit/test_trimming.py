"""The leader trims the logs, and says when the audit log loses what is young."""

from __future__ import annotations

from audit_support import asked
from test_control_controller import SettableClock

from vdc.control.events import EventLog, read_events
from vdc.control.trimming import Trimmer
from vdc.store.audit import AuditLog
from vdc.store.memory import MemoryStore


class DatedClock(SettableClock):
    day = "2026-02-01"

    def wall(self) -> str:
        return f"{self.day}T12:00:00.000000Z"


async def codes_after(store: MemoryStore, trimmer: Trimmer, log: AuditLog, first: int, at: str) -> list[str]:
    await log.append([asked(number, at=at) for number in range(first, first + 300)], 0)
    await trimmer.run()
    return [event.code for event in await read_events(store)]


async def test_a_log_that_loses_young_entries_is_a_warning_once_a_day() -> None:
    store, clock = MemoryStore(), DatedClock()
    log = AuditLog(store, keep=100)
    trimmer = Trimmer(store, EventLog(store, "h1", clock), log)
    old, young = "2026-01-01T12:00:00.000000Z", "2026-01-31T12:00:00.000000Z"
    assert await codes_after(store, trimmer, log, 1, old) == []
    assert await codes_after(store, trimmer, log, 301, young) == ["audit-trimmed"]
    assert await codes_after(store, trimmer, log, 601, young) == ["audit-trimmed"]
    clock.day = "2026-02-02"
    assert await codes_after(store, trimmer, log, 901, young) == ["audit-trimmed"] * 2
