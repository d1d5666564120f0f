"""The lineage of a cluster's records: how often a human has cut the history and let one part go on from it.

A majority of etcd's members decides, so that there is one history. Where a majority is lost for good, a human
may let one member go on alone with its data (`vdc promote replica NAME --force`): that begins a new lineage.
Whoever kept an older one must stand down as soon as it learns of the newer: it must neither vote nor act on
its own records. A lineage only grows.
"""

from __future__ import annotations

from pydantic import Field

from vdc.model.base import Record


class Lineage(Record):
    """The record in the store; absent while the history was never cut."""

    number: int = Field(default=0, ge=0)
    host: str = ""  # whose member's data it began with
    left_out: tuple[str, ...] = ()  # members that were given up; each has to re-join with empty data
    by: str = ""  # who asserted that they are off and stay off
    at: str = ""  # RFC 3339, for people only
    reason: str = ""
