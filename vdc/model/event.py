"""Events: what happened, in sentences, with a stable code."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from vdc.model.base import Record


class Severity(StrEnum):
    """How much somebody should care."""

    NORMAL = "Normal"
    WARNING = "Warning"


class Event(Record):
    """One thing that happened to one object."""

    id: str
    at: str  # RFC 3339 with microseconds, for people and for ordering in a listing
    host: str
    kind: str = "endophyte"
    name: str
    epoch: int = 0
    code: str  # stable, for example `promoted`, `secondary-lost`
    severity: Severity = Severity.NORMAL
    sentence: str
    figures: dict[str, float] = Field(
        default_factory=dict
    )  # measured values, units in their names (`detect_ms`)
