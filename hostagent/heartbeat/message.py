"""The heartbeat datagram: a heading, a JSON object, and a seal over both, checked before anything is parsed.

Agents are upgraded one after the other, so two versions must hear each other: heading and seal stay as they
are, a later version adds to the object and changes nothing that is there; what is not known is passed over.

The object says the same for minutes, twenty times a second from every peer on two networks; so it is parsed
once for as long as it does not change.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from hostagent.heartbeat.seal import SEAL_BYTES, Seal

MAX_BYTES = 1400
VERSION = 3
OLDEST = 3  # that is understood: what an upgrade passes through
_HEADING = struct.Struct("!QQQ")
_MAX_BODY_BYTES = MAX_BYTES - _HEADING.size - SEAL_BYTES
_MAX_DEAF = 16


class Heading(NamedTuple):
    """Where a heartbeat belongs among all that its sender has sent, and to which start of the receiver's agent."""

    incarnation: int  # of the sender's agent
    sequence: int  # grows with each heartbeat of that incarnation; the same on both networks
    receiver: int  # incarnation of the receiver's agent, as far as the sender knows


@dataclass(frozen=True, slots=True)
class Content:
    """What a heartbeat says. `dead` are copies that ended on the sender's host: (Endophyte's uid, epoch).

    `deaf_to` are hosts that the sender does not hear on its replication network; `lineage` is that of its etcd
    member (vdc.model.lineage).
    """

    dead: tuple[tuple[str, int], ...] = ()
    deaf_to: tuple[str, ...] = ()
    lineage: int = 0

    def encode(self) -> bytes:
        """The object; the oldest of many deaths are left out rather than the datagram be split."""
        dead = list(self.dead)
        while True:
            body = {"v": VERSION, "d": dead, "l": self.lineage}
            if self.deaf_to:
                body["r"] = self.deaf_to[:_MAX_DEAF]
            data = json.dumps(body, separators=(",", ":")).encode()
            if len(data) <= _MAX_BODY_BYTES or not dead:
                return data
            dead.pop(0)


def encode(heading: Heading, body: bytes, seal: Seal) -> bytes:
    """The datagram."""
    return seal.close(_HEADING.pack(*heading) + body)


def decode(data: bytes, seal: Seal) -> tuple[Heading, bytes] | None:
    """Heading and body; None for anything that the peer has not sent to us on this network."""
    if not _HEADING.size + SEAL_BYTES <= len(data) <= MAX_BYTES:
        return None
    opened = seal.open(data)
    if opened is None:
        return None
    return Heading._make(_HEADING.unpack_from(opened)), opened[_HEADING.size :]


@lru_cache(maxsize=128)
def parse(body: bytes) -> Content | None:
    """The content; None for anything that is not a heartbeat's from OLDEST on."""
    try:
        found = json.loads(body)
        if not isinstance(found, dict) or type(found.get("v")) is not int or found["v"] < OLDEST:
            return None
        dead = tuple((str(uid), int(epoch)) for uid, epoch in found["d"])
        deaf_to = tuple(str(host) for host in found.get("r", ()))
        return Content(dead, deaf_to, int(found.get("l", 0)))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
