"""A guest's end of its tap, to send and receive frames by hand."""

from __future__ import annotations

import os
import select

from hostagent.drivers.net import Port
from hostagent.drivers.net.tap import open_tap
from tests.integration.netns_support import Host
from tests.integration.packets import ARP, BROADCAST, arp, frame

VNET_HEADER = bytes(10)
END = b"the-end"


class Wire:
    """A guest's end of its tap, held open as QEMU does."""

    def __init__(self, host: Host, port: Port, *, live: bool = True) -> None:
        self.port, self.mac, self.address = port, port.mac, port.address
        host.do(host.net.attach_port(port, live=live))
        self._descriptor = host.call(open_tap, port.ifname)

    def send(self, kind: int, payload: bytes, *, source: str = "", to: str = BROADCAST) -> None:
        """A frame, broadcast and from the guest's own MAC unless told."""
        os.write(self._descriptor, VNET_HEADER + frame(to, source or self.mac, kind, payload))

    def call(self, content: bytes) -> None:
        """Broadcast an ARP request with something behind it; it passes every port."""
        self.send(ARP, arp(self.mac, self.address) + content)

    def receive(self, deadline_s: float = 5.0) -> bytes:
        """The next frame."""
        assert self.has_frame(deadline_s), "nothing was received"
        return os.read(self._descriptor, 4096)

    def has_frame(self, deadline_s: float) -> bool:
        """Whether there is one to receive, or comes within the time."""
        return bool(select.select([self._descriptor], [], [], deadline_s)[0])

    def drain(self) -> None:
        """Receive what is under way."""
        while self.has_frame(0.1):
            self.receive()

    def heard_until_end(self) -> bytes:
        """Everything that is received until a frame with `END` in it."""
        heard = b""
        while END not in (received := self.receive()):
            heard += received
        return heard

    def close(self) -> None:
        """Let go of the tap."""
        os.close(self._descriptor)


def reaches(sender: Wire, receiver: Wire) -> bool:
    """Whether a frame of the one has come to the other within a moment."""
    sender.call(b"are-you-there-" + sender.mac.encode())
    while receiver.has_frame(0.05):
        if sender.mac.encode() in receiver.receive():
            return True
    return False
