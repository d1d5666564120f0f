"""One frame into a guest's tap that no guest gets to see.

Why: QEMU's filter-rewriter, which the secondary has and a promoted VM keeps, puts a TCP packet aside that comes
while the guest stands still, and hands it on only with the next one. A client that waits for the answer to that
packet sends no next one, so it waits for its retransmission (200 ms and more). A frame of ours is the next one.

It is a TCP segment between two loopback addresses, to a MAC that nobody has: the rewriter takes it for a
connection's, the NIC's filter drops it. It is sent out of the tap, that is to QEMU; the bridge never sees it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

_TO, _FROM = bytes.fromhex("027664630001"), bytes.fromhex("027664630002")
_PROTOCOL_TCP, _RST, _HEADER_WORDS = 6, 0x04, 5


def frame() -> bytes:
    """The whole frame, at Ethernet's least length."""
    addresses = bytes([127, 118, 100, 1]), bytes([127, 118, 100, 2])
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 1, _PROTOCOL_TCP, 0, *addresses)
    tcp = struct.pack("!HHIIBBHHH", 1, 1, 0, 0, _HEADER_WORDS << 4, _RST, 0, 0, 0)
    return (_TO + _FROM + b"\x08\x00" + ip + tcp).ljust(60, b"\0")


_FRAME: Final = frame()


class Nudger:
    """A packet socket of the network namespace in which it was made; safe to call from the event loop."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)

    def nudge(self, ifnames: Iterable[str]) -> None:
        """Send it into each tap. One that is gone, or full, needs none."""
        for ifname in ifnames:
            with suppress(OSError):
                self._socket.sendto(_FRAME, (ifname, 0))

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()
