"""What was measured: a figure is a name, its raw values and, where there is one, a target. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed (nearest rank); 0 without any."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle; 0 without any."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True)
class Figure:
    """One line of the report.

    `values`: one per run. `tails`: where a run has many samples of its own, the p95 of each run; their median
    is then shown as the p95. `count`: how many samples stand behind it, where that is not the number of runs.
    """

    key: str
    name: str
    unit: str
    values: tuple[float, ...]
    tails: tuple[float, ...] = ()
    target: float | None = None  # the most that the median should be
    count: int | None = None
    note: str = ""

    @property
    def n(self) -> int:
        return len(self.values) if self.count is None else self.count

    @property
    def median(self) -> float | None:
        return median(self.values) if self.values else None

    @property
    def p95(self) -> float | None:
        if self.tails:
            return median(self.tails)
        return percentile(self.values, 95) if len(self.values) > 1 else None

    @property
    def is_met(self) -> bool | None:
        """None where there is no target, or nothing was measured."""
        if self.target is None or self.median is None:
            return None
        return self.median <= self.target

    def to_dict(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "name": self.name,
            "unit": self.unit,
            "n": self.n,
            "median": self.median,
            "p95": self.p95,
            "target": self.target,
            "met": self.is_met,
            "values": list(self.values),
            "tails": list(self.tails),
            "note": self.note,
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Figure:
        """Read back what `to_dict` wrote."""
        return cls(
            key=found["key"],
            name=found["name"],
            unit=found["unit"],
            values=tuple(found["values"]),
            tails=tuple(found["tails"]),
            target=found["target"],
            count=found["n"],
            note=found["note"],
        )


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Pair by pair; pairs whose divisor is 0 are left out."""
    return tuple(a / b for a, b in zip(above, below, strict=False) if b)
