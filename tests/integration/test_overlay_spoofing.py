"""A guest is heard as itself alone: each frame under another's name is dropped, at its port and from the tunnel."""

from __future__ import annotations

import os
import statistics
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from hostagent.drivers.net import Port, nft
from tests.integration.netns_support import (
    ADDRESS,
    ADDRESS_B,
    CLIENT_ADDRESS,
    MAC,
    MAC_B,
    Lab,
    timed,
    wait_until,
)
from tests.integration.packets import (
    ARP,
    BROADCAST,
    ICMPV6,
    IPV4,
    IPV6,
    RARP,
    UDP,
    arp,
    frame,
    ipv4,
    ipv6,
    rarp,
    udp,
)
from tests.integration.wires import END, Wire, reaches

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

ROUTED, VIP = "192.0.2.0/24", "10.77.0.250/32"
MARK = b"from-the-guest"
ANY, GLOBAL = "0.0.0.0", "2001:db8::1"


def _ip(source: str, source_port: int = 5000, port: int = 5000, target: str = "10.77.0.255") -> bytes:
    return ipv4(source, UDP, udp(source_port, port, MARK), target)


def _nd(kind: int) -> bytes:
    return ipv6("fe80::1", struct.pack("!BBHI", kind, 0, 0, 0) + MARK, ICMPV6)


def _behind_options(packet: bytes) -> bytes:
    """The same content, with options before it for who receives it."""
    options = struct.pack("!BBBB4x", packet[6], 0, 1, 4)
    return ipv6("fe80::1", options + packet[40:], 60)


def _fragment(first: int, offset: int, content: bytes, *, is_last: bool) -> bytes:
    return ipv6("fe80::1", struct.pack("!BBHI", first, 0, offset | (not is_last), 7) + content, 44)


_LONG_OPTIONS = struct.pack("!BBBB", ICMPV6, 3, 1, 28)  # 32 bytes
_TAG = struct.pack("!HH", 7, IPV4)
SHARED = "10.77.0.13"  # of the guest's other NIC
HONEST = {
    "IPv4": (IPV4, _ip(ADDRESS)),
    "IPv4 of its other NIC": (IPV4, _ip(SHARED)),
    "IPv4 from a prefix that is allowed": (IPV4, _ip("192.0.2.7")),
    "IPv4 from an address that is allowed": (IPV4, _ip("10.77.0.250")),
    "DHCP discover": (IPV4, _ip(ANY, 68, 67, "255.255.255.255")),
    "DHCP renewal": (IPV4, _ip(ADDRESS, 68, 67, "10.77.0.1")),
    "ARP request": (ARP, arp(MAC, ADDRESS) + MARK),
    "ARP answer": (ARP, arp(MAC, ADDRESS, operation=2) + MARK),
    "ARP answer for its other NIC": (ARP, arp(MAC, SHARED, operation=2) + MARK),
    "ARP probe": (ARP, arp(MAC, ANY, ADDRESS) + MARK),
    "ARP from an address that is allowed": (ARP, arp(MAC, "10.77.0.250") + MARK),
    "RARP": (RARP, rarp(MAC) + MARK),
    "IPv6 link-local": (IPV6, ipv6("fe80::1", udp(5000, 5000, MARK))),
    "IPv6 duplicate detection": (IPV6, ipv6("::", udp(5000, 5000, MARK))),
    "neighbour advertisement": (IPV6, _nd(136)),
    "IPv6 behind options": (IPV6, _behind_options(_nd(136))),
    "IPv6 of another protocol": (IPV6, ipv6("fe80::1", MARK, 132)),
    "IPv6 in fragments: first": (IPV6, _fragment(UDP, 0, udp(5000, 5000, MARK + bytes(2)), is_last=False)),
    "IPv6 in fragments: last": (IPV6, _fragment(UDP, 24, MARK, is_last=True)),
}
SPOOFED = {
    "IPv4 of another guest": (IPV4, _ip(ADDRESS_B)),
    "IPv4 of the host": (IPV4, _ip("10.77.0.1")),
    "IPv4 from beside the allowed prefix": (IPV4, _ip("192.0.3.1")),
    "IPv4 from nowhere": (IPV4, _ip(ANY)),
    "discover to one server": (IPV4, _ip(ANY, 68, 67, "10.77.0.1")),
    "discover from another port": (IPV4, _ip(ANY, 69, 67, "255.255.255.255")),
    "answer of a DHCP server": (IPV4, _ip(ADDRESS, 67, 5000)),
    "answer to a DHCP client": (IPV4, _ip(ADDRESS, 5000, 68)),
    "ARP with another's address": (ARP, arp(MAC, ADDRESS_B) + MARK),
    "ARP answer with another's address": (ARP, arp(MAC, ADDRESS_B, operation=2) + MARK),
    "ARP with another's MAC": (ARP, arp(MAC_B, ADDRESS) + MARK),
    "ARP with another's MAC and address": (ARP, arp(MAC_B, ADDRESS_B) + MARK),
    "ARP answer from nowhere": (ARP, arp(MAC, ANY, operation=2) + MARK),
    "ARP probe with another's MAC": (ARP, arp(MAC_B, ANY) + MARK),
    "ARP of another hardware": (ARP, struct.pack(">H", 6) + arp(MAC, ADDRESS)[2:] + MARK),
    "ARP of another protocol": (ARP, arp(MAC, ADDRESS)[:2] + b"\x88\xb5" + arp(MAC, ADDRESS)[4:] + MARK),
    "ARP with long MACs": (ARP, arp(MAC, ADDRESS)[:4] + b"\x08" + arp(MAC, ADDRESS)[5:] + MARK),
    "ARP with long addresses": (ARP, arp(MAC, ADDRESS)[:5] + b"\x08" + arp(MAC, ADDRESS)[6:] + MARK),
    "RARP for another": (RARP, rarp(MAC_B) + MARK),
    "IPv6 with an address": (IPV6, ipv6(GLOBAL, udp(5000, 5000, MARK))),
    "router advertisement": (IPV6, _nd(134)),
    "router advertisement behind options": (IPV6, _behind_options(_nd(134))),
    "router advertisement in fragments": (
        IPV6,
        _fragment(60, 0, _LONG_OPTIONS + MARK.ljust(20), is_last=False),
    ),
    "IPv6 redirect": (IPV6, _nd(137)),
    "answer of a DHCPv6 server": (IPV6, ipv6("fe80::1", udp(547, 546, MARK))),
    "802.1Q": (0x8100, _TAG + _ip(ADDRESS)),
    "802.1ad": (0x88A8, _TAG + _ip(ADDRESS)),
    "LLC": (60, b"\xaa\xaa\x03\x00\x00\x00\x08\x00" + _ip(ADDRESS)),
    "PPPoE": (0x8863, MARK),
    "an experiment": (0x88B5, MARK),
}
TO_SWITCHES = {
    "spanning tree": ("01:80:c2:00:00:00", 38, b"\x42\x42\x03" + MARK),
    "pause": ("01:80:c2:00:00:01", 0x8808, b"\x00\x01" + MARK),
    "LLDP": ("01:80:c2:00:00:0e", 0x88CC, MARK),
    "IPv4 to bridges": ("01:80:c2:00:00:00", IPV4, _ip(ADDRESS)),
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(hosts=2) as lab:
        yield lab


@pytest.fixture
def wires(lab: Lab) -> Iterator[tuple[Wire, Wire]]:
    """The guest that is watched, and its neighbour on the same host; neither is gated."""
    allowed = (IPv4Network(ROUTED), IPv4Network(VIP))
    guest = Wire(
        lab.hosts[0], Port.of("uid-a", 0, MAC, ADDRESS, shared=[SHARED], allowed=allowed, is_gated=False)
    )
    neighbour = Wire(lab.hosts[0], Port.of("uid-b", 0, MAC_B, ADDRESS_B, is_gated=False))
    wait_until(lambda: reaches(guest, neighbour) and reaches(neighbour, guest), "the ports forward")
    guest.drain()
    neighbour.drain()
    yield guest, neighbour
    guest.close()
    neighbour.close()


def passes(
    guest: Wire, neighbour: Wire, kind: int, payload: bytes, source: str = "", to: str = BROADCAST
) -> bool:
    """Whether a frame of the one arrives at the other; one that always does is sent after it."""
    guest.send(kind, payload, source=source, to=to)
    guest.call(END)
    return MARK in neighbour.heard_until_end()


def passing(wires: tuple[Wire, Wire]) -> set[str]:
    """Which of all the frames arrive."""
    return {name for name, sent in {**HONEST, **SPOOFED}.items() if passes(*wires, *sent)}


def test_a_guest_is_heard_as_itself_alone(wires: tuple[Wire, Wire]) -> None:
    assert passing(wires) == set(HONEST)


def test_a_guest_has_its_own_mac(wires: tuple[Wire, Wire]) -> None:
    for source in (MAC_B, "52:54:00:00:00:99", "01:00:5e:00:00:01"):
        for kind, payload in (
            (IPV4, _ip(ADDRESS)),
            (ARP, arp(MAC, ADDRESS) + MARK),
            (RARP, rarp(MAC) + MARK),
        ):
            assert not passes(*wires, kind, payload, source), (source, hex(kind))
        assert not passes(*wires, IPV4, _ip(ADDRESS_B), source)
        assert not passes(*wires, IPV4, _ip(ANY, 68, 67, "255.255.255.255"), source)
        assert not passes(*wires, IPV6, ipv6("fe80::1", udp(5000, 5000, MARK)), source)


@pytest.mark.parametrize("name", TO_SWITCHES)
def test_nothing_of_a_guest_is_meant_for_bridges(wires: tuple[Wire, Wire], name: str) -> None:
    to, kind, payload = TO_SWITCHES[name]
    assert not passes(*wires, kind, payload, to=to)


def test_the_rules_outlive_the_agent_and_the_next_one_makes_the_same(
    lab: Lab, wires: tuple[Wire, Wire]
) -> None:
    host = lab.hosts[0]
    host.start_driver(1, ["10.9.0.2"], netlink=host.netlink)
    assert passing(wires) == set(HONEST)
    host.do(host.net.secure())
    assert passing(wires) == set(HONEST)


def test_rules_that_somebody_took_away_come_back_with_all_guests(lab: Lab, wires: tuple[Wire, Wire]) -> None:
    host = lab.hosts[0]
    host.do(nft.apply("flush ruleset"))
    assert not host.do(nft.are_present(host.net.tables))
    assert passing(wires) > set(HONEST)
    host.do(host.net.attach_port(Port.of("uid-c", 0, "52:54:00:00:00:0c", "10.77.0.12"), live=True))
    assert host.do(nft.are_present(host.net.tables))
    assert passing(wires) == set(HONEST)


def test_a_tap_that_cannot_be_confined_is_not_made(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host = lab.hosts[0]
    monkeypatch.setattr(nft, "_PATH", "/nowhere")
    with pytest.raises(nft.NftError, match="nft was not found"):
        host.do(host.net.attach_port(Port.of("uid-a", 0, MAC, ADDRESS), live=True))
    assert host.do(host.net.list_ports()) == []


def test_a_prefix_of_everything_leaves_out_hosts_and_guests(lab: Lab) -> None:
    """A router may forward what comes from elsewhere, and still be nobody else on the overlay."""
    host = lab.hosts[0]
    router = Wire(host, Port.of("uid-a", 0, MAC, ADDRESS, allowed=[IPv4Network("0.0.0.0/0")]))
    other = Wire(host, Port.of("uid-b", 0, MAC_B, ADDRESS_B))
    wait_until(lambda: reaches(router, other), "the ports forward")
    other.drain()
    for source in ("8.8.8.8", "10.76.255.255", "10.77.0.200", "255.255.255.254"):
        assert passes(router, other, IPV4, _ip(source)), source
        assert passes(router, other, ARP, arp(MAC, source) + MARK), source
    for source in ("10.77.0.0", "10.77.0.1", ADDRESS_B, "10.77.0.199"):
        assert not passes(router, other, IPV4, _ip(source)), source
        assert not passes(router, other, ARP, arp(MAC, source) + MARK), source
    router.close()
    other.close()


def test_nobody_from_the_tunnel_has_the_address_of_a_guest_or_of_this_host(
    lab: Lab, wires: tuple[Wire, Wire]
) -> None:
    guest = wires[0]
    with lab.client.packet_socket("vx") as client:
        mac = lab.client.call(client.getsockname)[4].hex(":")

        def passes_from(source: str, *sent: tuple[int, bytes]) -> bool:
            end = (ARP, arp(mac, CLIENT_ADDRESS) + END)
            for kind, payload in (*sent, end):
                client.send(frame(BROADCAST, source, kind, payload))
            return MARK in guest.heard_until_end()

        assert passes_from(mac, (IPV4, _ip(CLIENT_ADDRESS)))
        assert passes_from(mac, (ARP, arp(mac, CLIENT_ADDRESS) + MARK))
        for address in (ADDRESS_B, "10.77.0.1"):
            assert not passes_from(mac, (IPV4, _ip(address)))
            assert not passes_from(mac, (ARP, arp(mac, address) + MARK))
            assert not passes_from(mac, (ARP, arp(mac, address, operation=2) + MARK))


def test_a_guest_is_heard_through_the_tunnel_where_its_other_copy_has_a_tap(lab: Lab) -> None:
    here, there = lab.hosts
    secondary = Wire(here, Port.of("uid-a", 0, MAC, ADDRESS), live=False)
    listener = Wire(here, Port.of("uid-b", 0, MAC_B, ADDRESS_B))
    primary = Wire(there, Port.of("uid-a", 0, MAC, ADDRESS))
    here.do(here.net.place({MAC: there.vtep}))
    wait_until(lambda: reaches(primary, listener), "the hosts are connected")
    listener.drain()
    assert passes(primary, listener, IPV4, _ip(ADDRESS))
    for wire in (secondary, listener, primary):
        wire.close()


def test_a_guest_that_is_gone_claims_nothing(lab: Lab, wires: tuple[Wire, Wire]) -> None:
    """Its address may belong to another one by now, with another MAC."""
    here, there = lab.hosts
    successor = Wire(there, Port.of("uid-n", 0, "52:54:00:00:00:0d", ADDRESS_B))
    guest, gone = wires
    successor.call(MARK + END)
    successor.send(IPV4, _ip(ADDRESS_B))
    while guest.has_frame(0.5):
        assert MARK not in guest.receive()
    here.do(here.net.remove_port(gone.port.ifname))
    wait_until(lambda: reaches(successor, guest), "the address has changed hands")
    guest.drain()
    assert passes(successor, guest, IPV4, _ip(ADDRESS_B))
    successor.close()


def test_a_promoted_copy_is_confined_from_its_first_frame(lab: Lab) -> None:
    host = lab.hosts[0]
    copy = Wire(host, Port.of("uid-a", 0, MAC, ADDRESS, is_gated=False), live=False)
    listener = Wire(host, Port.of("uid-b", 0, MAC_B, ADDRESS_B, is_gated=False))
    host.do(host.net.go_live([(copy.port.ifname, MAC)]))
    wait_until(lambda: reaches(copy, listener), "the listener's port forwards")
    listener.drain()
    host.do(host.net.go_silent(copy.port.ifname))
    took = []
    for _ in range(20):
        took.append(host.do(timed(host.net.go_live([(copy.port.ifname, MAC)]))))
        for kind, payload in SPOOFED.values():
            copy.send(kind, payload)
        copy.call(END)
        assert MARK not in listener.heard_until_end()
        host.do(host.net.go_silent(copy.port.ifname))
    print(f"go_live: p50 {statistics.median(took):.2f} max {max(took):.2f} ms")
    copy.close()
    listener.close()


def test_what_is_meant_for_one_neighbour_is_confined_as_well(wires: tuple[Wire, Wire]) -> None:
    assert passes(*wires, IPV4, _ip(ADDRESS, target=ADDRESS_B), to=MAC_B)
    assert not passes(*wires, IPV4, _ip("10.77.0.1", target=ADDRESS_B), to=MAC_B)
