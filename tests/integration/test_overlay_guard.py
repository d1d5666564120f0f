"""What lockstep does not compare is held at a protected guest's port, both ways, and passes elsewhere."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from hostagent.drivers.net import Port, guard
from hostagent.drivers.net.tap import open_tap
from tests.integration.netns_support import (
    ADDRESS,
    ADDRESS_B,
    MAC,
    MAC_B,
    Host,
    Lab,
    arp,
    frame,
    rarp,
    run,
    wait_until,
)

MAC_C, ADDRESS_C = "52:54:00:00:00:0c", "10.77.0.12"
VNET_HEADER = bytes(10)
BROADCAST = "ff:ff:ff:ff:ff:ff"
ARP, RARP, IPV4, IPV6 = 0x0806, 0x8035, 0x0800, 0x86DD
ICMP, TCP, UDP, GRE, SCTP = 1, 6, 17, 47, 132

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def ipv4(source: str, protocol: int, payload: bytes) -> bytes:
    """A packet of this protocol with a right header checksum (br_netfilter looks at it)."""
    addresses = socket.inet_aton(source) + socket.inet_aton("10.77.0.255")

    def header(checksum: int) -> bytes:
        fields = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, checksum)
        return fields + addresses

    total = sum(struct.unpack("!10H", header(0)))
    return header(~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + payload


def ipv6(payload: bytes) -> bytes:
    """A UDP packet to all nodes."""
    addresses = socket.inet_pton(socket.AF_INET6, "fe80::1") + socket.inet_pton(socket.AF_INET6, "ff02::1")
    return struct.pack("!IHBB", 6 << 28, len(payload), UDP, 64) + addresses + payload


COVERED = {"ARP", "RARP", "TCP", "UDP", "ICMP"}
UNCOVERED = {"IPv6", "GRE", "SCTP"}


class Wire:
    """A guest's end of its tap, held open as QEMU does."""

    def __init__(self, host: Host, uid: str, mac: str, address: str, *, is_gated: bool) -> None:
        self.mac, self.address = mac, address
        port = Port.of(uid, 0, mac, address, is_gated=is_gated)
        host.do(host.net.attach_port(port, live=True))
        self._descriptor = host.call(open_tap, port.ifname)

    def send(self, kind: int, payload: bytes) -> None:
        """Broadcast a frame."""
        os.write(self._descriptor, VNET_HEADER + frame(BROADCAST, self.mac, kind, payload))

    def call(self, content: bytes) -> None:
        """Broadcast an ARP request with something behind it; it passes every port."""
        self.send(ARP, arp(self.mac, self.address) + content)

    def kinds(self) -> dict[str, tuple[int, bytes]]:
        """One frame of this guest of each kind, by name; each has its name in it."""

        def packet(protocol: int, name: bytes) -> bytes:
            return ipv4(self.address, protocol, bytes(8) + name)

        return {
            "ARP": (ARP, arp(self.mac, self.address) + b"ARP"),
            "RARP": (RARP, rarp(self.mac) + b"RARP"),
            "TCP": (IPV4, packet(TCP, b"TCP")),
            "UDP": (IPV4, packet(UDP, b"UDP")),
            "ICMP": (IPV4, packet(ICMP, b"ICMP")),
            "IPv6": (IPV6, ipv6(b"IPv6")),
            "GRE": (IPV4, packet(GRE, b"GRE")),
            "SCTP": (IPV4, packet(SCTP, b"SCTP")),
        }

    def receive(self, deadline_s: float = 5.0) -> bytes:
        """The next frame."""
        assert self.has_frame(deadline_s), "nothing was received"
        return os.read(self._descriptor, 4096)

    def has_frame(self, deadline_s: float) -> bool:
        """Whether there is one to receive, or comes within the time."""
        return bool(select.select([self._descriptor], [], [], deadline_s)[0])

    def close(self) -> None:
        """Let go of the tap."""
        os.close(self._descriptor)


@pytest.fixture
def host() -> Iterator[Host]:
    with Lab(hosts=1) as lab:
        host = lab.hosts[0]
        host.do(guard.ensure())
        host.do(guard.ensure())  # as the next agent does
        yield host


@pytest.fixture
def wires(host: Host) -> Iterator[dict[str, Wire]]:
    """One gated port and two that are not."""
    wires = {
        "gated": Wire(host, "uid-a", MAC, ADDRESS, is_gated=True),
        "open": Wire(host, "uid-b", MAC_B, ADDRESS_B, is_gated=False),
        "other": Wire(host, "uid-c", MAC_C, ADDRESS_C, is_gated=False),
    }
    for sender in wires.values():  # the bridge may take up to a second to notice that a tap is open
        for receiver in wires.values():
            if sender is not receiver:
                wait_until(lambda s=sender, r=receiver: reaches(s, r), "the ports forward")
    for wire in wires.values():
        while wire.has_frame(0.1):
            wire.receive()
    yield wires
    for wire in wires.values():
        wire.close()


def reaches(sender: Wire, receiver: Wire) -> bool:
    """Whether a frame of the one has come to the other within a moment."""
    sender.call(b"are-you-there-" + sender.mac.encode())
    while receiver.has_frame(0.05):
        if sender.mac.encode() in receiver.receive():
            return True
    return False


def passed(sender: Wire, receiver: Wire) -> set[str]:
    """The kinds of frames that arrive; after each comes one that always does."""
    found = set()
    for name, (kind, payload) in sender.kinds().items():
        sender.send(kind, payload)
        sender.call(b"the-end")
        while b"the-end" not in (received := receiver.receive()):
            if name.encode() in received:
                found.add(name)
    return found


@pytest.mark.parametrize(("sender", "receiver"), [("gated", "open"), ("open", "gated")])
def test_only_what_lockstep_compares_passes_a_gated_port(
    wires: dict[str, Wire], sender: str, receiver: str
) -> None:
    assert passed(wires[sender], wires[receiver]) == COVERED


def test_everything_of_a_guest_passes_between_ports_that_are_not_gated(wires: dict[str, Wire]) -> None:
    assert passed(wires["open"], wires["other"]) == COVERED | UNCOVERED


def test_a_port_that_is_attached_again_may_change_sides(host: Host, wires: dict[str, Wire]) -> None:
    assert passed(wires["gated"], wires["open"]) == COVERED
    host.do(host.net.attach_port(Port.of("uid-a", 0, MAC, ADDRESS, is_gated=False), live=True))
    assert passed(wires["gated"], wires["open"]) == COVERED | UNCOVERED


def test_setting_the_rules_again_leaves_one_table(host: Host) -> None:
    listed = run("ip", "netns", "exec", host.netns, "nft", "list", "tables")
    assert listed.split("\n").count(f"table bridge {guard.TABLE}") == 1
