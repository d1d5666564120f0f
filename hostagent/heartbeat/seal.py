"""The authentication of datagrams between two hosts, by a key that only they know (vdc.security.pairwise).

A seal is good for one direction on one network. So a datagram that is sent back to its sender is none, nor is
one that was taken from the management network and put on a dead replication network.
"""

from __future__ import annotations

import hmac

SEAL_BYTES = 16  # of HMAC-SHA256: to guess one takes 2^127 datagrams


class Seal:
    """Immutable."""

    def __init__(self, key: bytes, sender: str, receiver: str, network: str) -> None:
        self._key = key
        self._context = f"{network} {sender} {receiver}\n".encode()

    def close(self, data: bytes) -> bytes:
        """`data` with its seal behind it."""
        return data + self._mac(data)

    def open(self, sealed: bytes) -> bytes | None:
        """What was sealed; None where nobody with the key has sealed exactly this, here and this way."""
        data = sealed[:-SEAL_BYTES]
        return data if hmac.compare_digest(self._mac(data), sealed[-SEAL_BYTES:]) else None

    def _mac(self, data: bytes) -> bytes:
        return hmac.digest(self._key, self._context + data, "sha256")[:SEAL_BYTES]
