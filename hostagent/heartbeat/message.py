"""The heartbeat datagram: a sequence number and a JSON object, parsed defensively since it comes from the network.

Agents are upgraded one after the other, so two versions must hear each other: a later version adds to the
object and changes nothing that is there; what is not known is passed over.

The object says the same for minutes, twenty times a second from every peer on two networks; so it is parsed
once for as long as it does not change.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

MAX_BYTES = 1400
VERSION = 2
_MAX_SEQUENCE_DIGITS = 18
_MAX_DEAF = 16


@dataclass(frozen=True, slots=True)
class Content:
    """What a heartbeat says. `dead` are copies that ended on the sender's host: (Endophyte's uid, epoch).

    `deaf_to` are hosts that the sender does not hear on its replication network; `lineage` is that of its etcd
    member (vdc.model.lineage).
    """

    host: str
    incarnation: str
    dead: tuple[tuple[str, int], ...] = ()
    deaf_to: tuple[str, ...] = ()
    lineage: int = 0

    def encode(self) -> bytes:
        """The object; the oldest of many deaths are left out rather than the datagram be split."""
        dead = list(self.dead)
        while True:
            body = {"v": VERSION, "h": self.host, "i": self.incarnation, "d": dead, "l": self.lineage}
            if self.deaf_to:
                body["r"] = self.deaf_to[:_MAX_DEAF]
            data = json.dumps(body, separators=(",", ":")).encode()
            if len(data) + _MAX_SEQUENCE_DIGITS + 1 <= MAX_BYTES or not dead:
                return data
            dead.pop(0)


@lru_cache(maxsize=128)
def _parse(body: bytes) -> Content | None:
    try:
        found = json.loads(body)
        if not isinstance(found, dict) or type(found.get("v")) is not int or found["v"] < VERSION:
            return None
        dead = tuple((str(uid), int(epoch)) for uid, epoch in found["d"])
        deaf_to = tuple(str(host) for host in found.get("r", ()))
        return Content(str(found["h"]), str(found["i"]), dead, deaf_to, int(found.get("l", 0)))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def encode(sequence: int, body: bytes) -> bytes:
    """The datagram."""
    return b"%d\n%b" % (sequence, body)


def decode(data: bytes) -> tuple[int, Content] | None:
    """Sequence and content; None for anything that is not a heartbeat of this version or a later one."""
    number, _, body = data[: MAX_BYTES + 1].partition(b"\n")
    if not number.isdigit() or len(number) > _MAX_SEQUENCE_DIGITS:
        return None
    content = _parse(body)
    return None if content is None else (int(number), content)
