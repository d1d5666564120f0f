"""The heartbeat datagram. Small, one JSON object, versioned, parsed defensively: it comes from the network."""

from __future__ import annotations

import json
from dataclasses import dataclass

MAX_BYTES = 1400
VERSION = 1


@dataclass(frozen=True, slots=True)
class Message:
    """One heartbeat. `dead` are copies that ended on the sender's host: (Endophyte's uid, epoch)."""

    host: str
    incarnation: str
    sequence: int
    dead: tuple[tuple[str, int], ...] = ()

    def encode(self) -> bytes:
        """Wire form; the oldest of many deaths are left out rather than the datagram be split."""
        dead = list(self.dead)
        while True:
            body = {"v": VERSION, "h": self.host, "i": self.incarnation, "s": self.sequence, "d": dead}
            data = json.dumps(body, separators=(",", ":")).encode()
            if len(data) <= MAX_BYTES or not dead:
                return data
            dead.pop(0)

    @classmethod
    def decode(cls, data: bytes) -> Message | None:
        """Parse; None for anything that is not a heartbeat of this version."""
        try:
            body = json.loads(data)
            if not isinstance(body, dict) or body.get("v") != VERSION:
                return None
            dead = tuple((str(uid), int(epoch)) for uid, epoch in body["d"])
            return cls(str(body["h"]), str(body["i"]), int(body["s"]), dead)
        except (ValueError, KeyError, TypeError):
            return None
