"""The audit log: who asked for what, and a chain of hashes by which tampering shows. Pure.

An entry is stored as its canonical text: JSON with sorted keys and no spaces. `hash` is the SHA-256 of the same text
without it, and `prev` the hash of the entry before; so no entry can be changed, left out or put elsewhere unless all
that follow are made anew, and then the head that each host remembers is another one.

The chain is checked on what is stored, not on what this version understands of it: a field that a newer agent
wrote is under the hash too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from vdc.model.base import Record
from vdc.model.strict_yaml import parse_json

KEEP = 100_000  # entries that are never trimmed
MOST_SEQ = 10**11
_MOST_VALUES = 1_000  # of one entry, which has twenty
ORIGIN = "0" * 64  # what the first entry follows
NOBODY = "nobody"
OK, UNKNOWN, CANCELLED = "ok", "unknown", "cancelled"  # results that are no error's code


class AuditEntry(Record):
    """One act, or `count` refusals of one address. Its place, `seq`, `prev`, `lineage`, `hash`, is given by the log."""

    id: str  # of the request: `Vdc-Request-Id`, and in the agents' logs
    at: str  # RFC 3339, when it was asked for
    host: str  # whose agent was asked
    spool: str = ""  # which of the host's spools it was written to, as which `number`: none is appended twice
    number: int = 0
    who: str = NOBODY  # the URI of an identity
    via: str = ""  # the host that handed it on
    address: str = ""  # where it came from; `unix`: the host's own socket
    what: str  # the route's name
    object: str = ""
    detail: str = ""  # what of the address says more: a command, a path
    result: str = (
        UNKNOWN  # `ok`, an error's code; unknown: the agent died meanwhile; cancelled: the client left
    )
    epoch: int = 0  # of the pair afterwards, where it was about an Endophyte
    count: int = 1
    gap: int = 0  # entries before this one that the host lost: its spool was full
    lineage: int = 0
    seq: int = Field(default=0, ge=0, le=MOST_SEQ)
    prev: str = ""
    hash: str = ""

    def sealed(self, seq: int, prev: str, lineage: int) -> AuditEntry:
        """The entry in its place in the chain."""
        placed = self.with_(seq=seq, prev=prev, lineage=lineage, hash="")
        return placed.with_(hash=hash_of(placed.model_dump(mode="json")))

    @property
    def text(self) -> str:
        """As it is stored."""
        return canonical(self.model_dump(mode="json"))


class Drained(Record):
    """How far a host's spool is in the log."""

    spool: str
    number: int


class AuditHead(Record):
    """The end of the chain; changed in the transaction that appends."""

    seq: int = Field(default=0, ge=0, le=MOST_SEQ)
    hash: str = ORIGIN
    lineage: int = 0
    drained: dict[str, Drained] = Field(default_factory=dict)  # by host

    def has(self, entry: AuditEntry) -> bool:
        """Whether the entry was appended already."""
        found = self.drained.get(entry.host)
        return found is not None and found.spool == entry.spool and entry.number <= found.number

    def after(self, last: AuditEntry) -> AuditHead:
        """The head when `last` has been appended."""
        drained = {**self.drained, last.host: Drained(spool=last.spool, number=last.number)}
        return AuditHead(seq=last.seq, hash=last.hash, lineage=last.lineage, drained=drained)


class AuditAnchor(Record):
    """Where the log begins: the last entry that was trimmed."""

    seq: int = Field(default=0, ge=0, le=MOST_SEQ)
    hash: str = ORIGIN


class RememberedHead(Record):
    """The end of the chain as a host has last found it whole, on that host's own disk."""

    host: str
    seq: int = 0
    hash: str = ORIGIN
    lineage: int = 0


def canonical(values: Mapping[str, Any]) -> str:
    """The one text of these values."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def hash_of(values: Mapping[str, Any]) -> str:
    """The hash that an entry of these values has to have."""
    hashed = {key: value for key, value in values.items() if key != "hash"}
    return hashlib.sha256(canonical(hashed).encode()).hexdigest()


def parse_entry(text: str) -> dict[str, Any] | None:
    """All that is stored of an entry; None where it is none, or could not be handed on as it is."""
    try:
        values = parse_json(text.encode(), max_values=_MOST_VALUES)
        AuditEntry.model_validate(values, strict=True)
    except ValueError:
        return None
    is_placed = isinstance(values, dict) and {"seq", "prev", "hash", "lineage"} <= values.keys()
    return values if is_placed else None
