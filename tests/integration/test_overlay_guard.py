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
from tests.integration.netns_support import MAC, MAC_B, Host, Lab, frame, run, wait_until

MAC_C = "52:54:00:00:00:0c"
VNET_HEADER = bytes(10)
BROADCAST = "ff:ff:ff:ff:ff:ff"
ARP, RARP, IPV4, IPV6, VLAN = 0x0806, 0x8035, 0x0800, 0x86DD, 0x8100
ICMP, TCP, UDP, GRE, SCTP = 1, 6, 17, 47, 132

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def ipv4(protocol: int, payload: bytes) -> bytes:
    """A packet of this protocol with a right header checksum (br_netfilter looks at it)."""
    addresses = socket.inet_aton("10.77.0.10") + socket.inet_aton("10.77.0.11")

    def header(checksum: int) -> bytes:
        fields = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, checksum)
        return fields + addresses

    total = sum(struct.unpack("!10H", header(0)))
    return header(~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + payload


def ipv6(payload: bytes) -> bytes:
    """A UDP packet to all nodes."""
    addresses = socket.inet_pton(socket.AF_INET6, "fe80::1") + socket.inet_pton(socket.AF_INET6, "ff02::1")
    return struct.pack("!IHBB", 6 << 28, len(payload), UDP, 64) + addresses + payload


PASSES = {
    "ARP": (ARP, b"arp-request-of-the-guest"),
    "RARP": (RARP, b"announcement-of-the-guest"),
    "TCP": (IPV4, ipv4(TCP, b"tcp-of-the-guest")),
    "UDP": (IPV4, ipv4(UDP, b"udp-of-the-guest")),
    "ICMP": (IPV4, ipv4(ICMP, b"icmp-of-the-guest")),
}
HELD = {
    "IPv6": (IPV6, ipv6(b"ipv6-of-the-guest")),
    "GRE": (IPV4, ipv4(GRE, b"gre-of-the-guest")),
    "SCTP": (IPV4, ipv4(SCTP, b"sctp-of-the-guest")),
    "VLAN": (VLAN, b"\x00\x01\x86\xddvlan-of-the-guest"),
    "another": (0x88B5, b"experiment-of-the-guest"),
}


class Wire:
    """A guest's end of its tap, held open as QEMU does."""

    def __init__(self, host: Host, uid: str, mac: str, *, is_gated: bool) -> None:
        self.mac = mac
        port = Port.of(uid, 0, mac, is_gated=is_gated)
        host.do(host.net.attach_port(port, live=True))
        self._descriptor = host.call(open_tap, port.ifname)

    def send(self, kind: int, payload: bytes) -> None:
        """Broadcast a frame."""
        os.write(self._descriptor, VNET_HEADER + frame(BROADCAST, self.mac, kind, payload))

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
        "gated": Wire(host, "uid-a", MAC, is_gated=True),
        "open": Wire(host, "uid-b", MAC_B, is_gated=False),
        "other": Wire(host, "uid-c", MAC_C, is_gated=False),
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
    sender.send(ARP, b"are-you-there-" + sender.mac.encode())
    while receiver.has_frame(0.05):
        if sender.mac.encode() in receiver.receive():
            return True
    return False


def passes(sender: Wire, receiver: Wire, kind: int, payload: bytes) -> bool:
    """Whether a frame arrives; one that always does is sent after it and marks the end."""
    sender.send(kind, payload)
    sender.send(ARP, b"the-end")
    heard = b""
    while b"the-end" not in (received := receiver.receive()):
        heard += received
    return payload in heard


@pytest.mark.parametrize(("sender", "receiver"), [("gated", "open"), ("open", "gated")])
def test_only_what_lockstep_compares_passes_a_gated_port(
    wires: dict[str, Wire], sender: str, receiver: str
) -> None:
    shown = {
        name: passes(wires[sender], wires[receiver], kind, payload)
        for name, (kind, payload) in {**PASSES, **HELD}.items()
    }
    assert shown == {**dict.fromkeys(PASSES, True), **dict.fromkeys(HELD, False)}


def test_everything_passes_between_ports_that_are_not_gated(wires: dict[str, Wire]) -> None:
    for name, (kind, payload) in {**PASSES, **HELD}.items():
        assert passes(wires["open"], wires["other"], kind, payload), name


def test_a_port_that_is_attached_again_may_change_sides(host: Host, wires: dict[str, Wire]) -> None:
    kind, payload = HELD["IPv6"]
    assert not passes(wires["gated"], wires["open"], kind, payload)
    host.do(host.net.attach_port(Port.of("uid-a", 0, MAC, is_gated=False), live=True))
    assert passes(wires["gated"], wires["open"], kind, payload)


def test_setting_the_rules_again_leaves_one_table(host: Host) -> None:
    listed = run("ip", "netns", "exec", host.netns, "nft", "list", "tables")
    assert listed.split("\n").count(f"table bridge {guard.TABLE}") == 1
