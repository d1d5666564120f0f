"""Clocks, passed in everywhere so that tests and simulation own the time."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks with two purposes that must not be mixed."""

    def boottime_s(self) -> float:
        """Seconds that decisions are based on: monotonic, counts suspension, unmoved by clock changes."""
        ...

    def wall(self) -> str:
        """RFC 3339 in UTC with microseconds, for people only."""
        ...


class SystemClock:
    """The machine's clocks."""

    def boottime_s(self) -> float:
        """See Clock."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> str:
        """See Clock."""
        return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
