"""Refusals for the audit log, summed up: who knocks without end must neither fill the store nor push out what counts.

The first refusal of an address is told at once. Those that follow are counted, and told together after ten seconds;
while it goes on the interval doubles, up to ten minutes, after which an address is forgotten. So the log gets some
tens of entries in ten minutes at most, from however many addresses. Pure: the time is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdc.model.audit import AuditEntry

FIRST_S, LONGEST_S = 10.0, 600.0
MOST_ADDRESSES = 32  # that are followed one by one
OTHERS = "others"  # the address of the rest
SEVERAL = "several"


@dataclass(slots=True)
class _Sum:
    due_s: float
    interval_s: float
    last_s: float
    entry: AuditEntry | None = None  # what came since; None: nothing


class Refusals:
    """One per agent."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sum] = {}

    def note(self, entry: AuditEntry, now_s: float) -> AuditEntry | None:
        """Take one refusal. Returns what is to be told now."""
        address = entry.address
        if address not in self._sums:
            if len(self._sums) >= MOST_ADDRESSES:
                address = OTHERS
                entry = entry.with_(address=OTHERS)
            if address not in self._sums:
                self._sums[address] = _Sum(now_s + FIRST_S, FIRST_S, now_s)
                return entry
        found = self._sums[address]
        found.last_s = now_s
        found.entry = entry if found.entry is None else _together(found.entry, entry)
        return None

    def due(self, now_s: float) -> list[AuditEntry]:
        """The sums whose time has come. An address that was quiet for the longest interval begins anew."""
        told = []
        for address, found in tuple(self._sums.items()):
            if found.entry is None and now_s >= found.last_s + LONGEST_S:
                del self._sums[address]
            if found.entry is None or now_s < found.due_s:
                continue
            told.append(found.entry)
            found.entry = None
            found.interval_s = min(LONGEST_S, 2 * found.interval_s)
            found.due_s = now_s + found.interval_s
        return told

    def rest(self) -> list[AuditEntry]:
        """All that was not told yet: the agent ends."""
        told = [found.entry for found in self._sums.values() if found.entry is not None]
        self._sums.clear()
        return told


def _together(one: AuditEntry, other: AuditEntry) -> AuditEntry:
    """Both as one; what they do not have in common is `several`."""
    fields = ("who", "via", "what", "object", "result")
    common = {
        name: value if value == getattr(other, name) else SEVERAL
        for name in fields
        if (value := getattr(one, name)) != SEVERAL
    }
    return one.with_(**common, count=one.count + other.count)
