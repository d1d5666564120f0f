"""From the overlay nothing of a host is reached but DHCP, DNS and echo, and nothing behind it; overlays are apart."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from hostagent.drivers.net import OverlayNetwork, Port
from tests.integration.netns_support import (
    ADDRESS,
    ADDRESS_B,
    CLIENT_VTEP,
    MAC,
    MAC_B,
    Guest,
    Host,
    Lab,
    Place,
    start_guest,
    wait_until,
)
from tests.integration.packets import ARP, BROADCAST, IPV4, IPV6, UDP, arp, checksum, ipv4, ipv6, udp
from tests.integration.wires import Wire
from vdc.model.network import Network

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

OTHER = Network(
    name="other",
    vni=101,
    cidr=IPv4Network("10.88.0.0/24"),
    guest_first=IPv4Address("10.88.0.10"),
    guest_last=IPv4Address("10.88.0.199"),
)
MAC_O, ADDRESS_O = "52:54:00:88:00:0a", "10.88.0.10"
TCP_PORTS = (22, 7400, 7379, 7380, 21000, 21020, 33000)  # ssh, API, etcd, replication, a port of no one's
UDP_PORTS = (7401, 68, 5000)
OVERLAY, MANAGEMENT, REPLICATION = "10.77.0.1", "10.9.0.1", "10.8.0.1"
MARK = b"from-the-guest"


class Servers:
    """Everything that must not be reached listens on all addresses of a host, and what may be reached too."""

    def __init__(self, lab: Lab, host: Host) -> None:
        self.udp: dict[int, socket.socket] = {}
        for port in (*TCP_PORTS, 53):
            lab.cleanup.callback(host.call(socket.create_server, ("", port)).close)
        for port in (*UDP_PORTS, 53, 67):
            self.udp[port] = host.udp(port=port)
            lab.cleanup.callback(self.udp[port].close)

    def received(self, port: int) -> bool:
        """Whether a datagram has come to this port."""
        with contextlib.suppress(TimeoutError):
            return bool(self.udp[port].recv(2048))
        return False


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(hosts=2) as lab:
        yield lab


@pytest.fixture
def guest(lab: Lab) -> Guest:
    """A guest that sends to its host whatever is not on the overlay, and hosts that would forward it."""
    guest = start_guest(lab, lab.hosts[0], "uid-a", MAC, ADDRESS)
    guest.place.ip("route", "add", "default", "via", OVERLAY)
    for host in lab.hosts:
        host.do(host.net.secure())
        lax(host)
    guest.place.ping(OVERLAY)
    return guest


def lax(host: Host) -> None:
    """As open as Linux can be: it forwards, and takes a packet from wherever it comes."""

    def write() -> None:
        for name in ("ip_forward", "conf/all/rp_filter", "conf/default/rp_filter"):
            Path(f"/proc/sys/net/ipv4/{name}").write_text("1" if name == "ip_forward" else "0")

    host.call(write)


def mac_of(host: Host, ifname: str) -> str:
    """An interface's MAC."""
    return host.ip("-o", "link", "show", ifname).partition("link/ether ")[2].split()[0]


def connects(place: Place, address: str, port: int, timeout_s: float = 0.3) -> bool:
    """Whether a TCP connection comes about."""

    def attempt() -> bool:
        with socket.socket() as sock:
            sock.settimeout(timeout_s)
            return sock.connect_ex((address, port)) == 0

    return place.call(attempt)


def sends(place: Place, address: str, port: int) -> None:
    """Send a datagram."""
    with place.udp() as sock, contextlib.suppress(OSError):
        sock.sendto(MARK, (address, port))


def test_no_port_of_a_host_is_open_to_a_guest(lab: Lab, guest: Guest) -> None:
    for host in lab.hosts:
        Servers(lab, host)
    addresses = [f"10.{subnet}.0.{host.number}" for subnet in (77, 9, 8) for host in lab.hosts]
    reached = [(a, p) for a in addresses for p in TCP_PORTS if connects(guest.place, a, p)]
    assert reached == []
    assert all(connects(lab.hosts[1], a, p, 2.0) for a in (MANAGEMENT, REPLICATION) for p in TCP_PORTS)


def test_dns_is_open_at_the_overlay_address_alone(lab: Lab, guest: Guest) -> None:
    for host in lab.hosts:
        Servers(lab, host)
    assert connects(guest.place, OVERLAY, 53, 2.0) and connects(guest.place, "10.77.0.2", 53, 2.0)
    assert not connects(guest.place, MANAGEMENT, 53) and not connects(guest.place, REPLICATION, 53)


def test_datagrams_reach_dhcp_and_dns_alone(lab: Lab, guest: Guest) -> None:
    servers = Servers(lab, lab.hosts[0])
    for address in (OVERLAY, MANAGEMENT, REPLICATION):
        for port in (*UDP_PORTS, 53, 67):
            sends(guest.place, address, port)
            is_open = address == OVERLAY and port in (53, 67)
            assert servers.received(port) == is_open, (address, port)


def test_a_host_answers_echo_at_its_overlay_address_alone(lab: Lab, guest: Guest) -> None:
    assert guest.place.reaches(OVERLAY) and guest.place.reaches("10.77.0.2")
    for address in (MANAGEMENT, REPLICATION):
        assert not guest.place.reaches(address)
        assert lab.hosts[1].reaches(address, 2.0)


def test_a_host_says_of_its_overlay_address_alone_that_it_has_it(lab: Lab) -> None:
    """Linux answers ARP on every interface for every address: a guest would find out those of the other networks."""
    host = lab.hosts[0]
    mac = mac_of(host, host.net.bridge)
    wire = Wire(host, Port.of("uid-a", 0, MAC, ADDRESS))

    def is_answered(address: str) -> bool:
        wire.drain()
        wire.send(ARP, arp(MAC, ADDRESS, address))
        answer = struct.pack(">H", 2) + bytes.fromhex(mac.replace(":", "")) + socket.inet_aton(address)
        while wire.has_frame(0.2):
            if answer in wire.receive():
                return True
        return False

    wait_until(lambda: is_answered(OVERLAY), "the host answers")
    assert not is_answered(MANAGEMENT)
    assert not is_answered(REPLICATION)
    wire.close()


def test_ipv6_of_a_guest_does_not_reach_the_host(lab: Lab) -> None:
    host = lab.hosts[0]
    wire = Wire(host, Port.of("uid-a", 0, MAC, ADDRESS, is_gated=False))
    with host.call(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::", 5000))
        sock.settimeout(0.2)
        for _ in range(5):
            wire.send(IPV6, ipv6("fe80::1", udp6("fe80::1", 5000)), to="33:33:00:00:00:01")
            with pytest.raises(TimeoutError):
                sock.recv(2048)
    wire.close()


def udp6(source: str, port: int) -> bytes:
    """A datagram to all nodes, with the checksum that IPv6 demands."""
    pseudo = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "ff02::1")
    body = udp(5000, port, MARK)
    pseudo += len(body).to_bytes(4, "big") + bytes((0, 0, 0, UDP))
    return body[:6] + checksum(pseudo + body).to_bytes(2, "big") + body[8:]


def test_a_host_may_open_a_connection_to_a_guest(lab: Lab, guest: Guest) -> None:
    with guest.place.call(socket.create_server, ("", 22)) as server:
        assert connects(lab.hosts[0], ADDRESS, 22, 2.0)
        assert connects(lab.hosts[1], ADDRESS, 22, 2.0)
        server.settimeout(1.0)
        server.accept()[0].close()


def test_nothing_is_forwarded_out_of_an_overlay_nor_into_it(lab: Lab, guest: Guest) -> None:
    h2 = lab.hosts[1]
    for address in ("10.9.0.2", "10.8.0.2", CLIENT_VTEP):
        assert not guest.place.reaches(address)
    lab.client.ip("route", "add", f"{ADDRESS}/32", "via", MANAGEMENT)
    with lab.hosts[0].packet_socket(lab.hosts[0].net.bridge) as ear:
        ear.settimeout(0.3)
        with lab.client.udp("10.9.0.100") as sock:
            sock.sendto(b"into-the-overlay", (ADDRESS, 5000))
        with contextlib.suppress(TimeoutError):
            while True:
                assert b"into-the-overlay" not in ear.recv(2048)
    assert h2.reaches(MANAGEMENT, 2.0)


def test_guests_of_one_host_still_reach_each_other(lab: Lab, guest: Guest) -> None:
    """Where br_netfilter is on, what is bridged passes the host's forwarding rules too."""
    port = Port.of("uid-b", 0, MAC_B, ADDRESS_B)
    lab.hosts[0].do(lab.hosts[0].net.attach_port(port, live=True))
    other = Guest(lab, lab.hosts[0], port.ifname, MAC_B, ADDRESS_B)
    other.place.ping(ADDRESS)


def test_a_tap_beside_the_bridge_has_no_way_into_the_host(lab: Lab) -> None:
    """A secondary's QEMU that was broken into may send what it likes to its tap."""
    host = lab.hosts[0]
    wire = Wire(host, Port.of("uid-a", 0, MAC, ADDRESS), live=False)
    lax(host)
    servers = Servers(lab, host)
    mac = mac_of(host, wire.port.ifname)
    for address in (OVERLAY, MANAGEMENT, REPLICATION):
        wire.send(IPV4, ipv4(ADDRESS, UDP, udp(5000, 7401, MARK), address), to=mac)
        wire.send(IPV4, ipv4("10.9.0.2", UDP, udp(5000, 7401, MARK), address), to=mac)
        assert not servers.received(7401), address
    with lab.hosts[1].packet_socket("u0") as ear:
        wire.send(IPV4, ipv4("10.9.0.3", UDP, udp(5000, 7401, MARK), "10.9.0.2"), to=mac)
        ear.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while True:
                assert MARK not in ear.recv(2048)
    wire.close()


@pytest.fixture
def others(lab: Lab) -> list[OverlayNetwork]:
    """A second tenant's overlay on both hosts."""
    made = []
    for host in lab.hosts:

        async def start(host: Host = host) -> OverlayNetwork:
            net = OverlayNetwork(
                OTHER, vtep_address=host.vtep, overlay_address=f"10.88.0.{host.number}",
                underlay_interface="u0", netlink=host.netlink,
            )  # fmt: skip
            await net.ensure([other.vtep for other in lab.hosts if other is not host])
            await net.secure()
            return net

        made.append(host.do(start()))
        lax(host)
    return made


class _OnOther(Host):
    """A host as one sees it who attaches to its second overlay."""

    def __init__(self, host: Host, net: OverlayNetwork) -> None:
        self.__dict__.update(host.__dict__)
        self.net = net


def test_no_frame_goes_from_one_overlay_to_another(lab: Lab, others: list[OverlayNetwork]) -> None:
    host = lab.hosts[0]
    mine = Wire(host, Port.of("uid-a", 0, MAC, ADDRESS))
    theirs = [
        Wire(_OnOther(lab.hosts[0], others[0]), Port.of("uid-o", 0, MAC_O, ADDRESS_O)),
        Wire(_OnOther(lab.hosts[1], others[1]), Port.of("uid-p", 0, "52:54:00:88:00:0b", "10.88.0.11")),
    ]
    wait_until(lambda: heard(theirs[0], theirs[1], "ours"), "the second overlay is connected")
    bridge = mac_of(host, host.net.bridge)
    for wire in theirs:
        wire.drain()
        for kind, payload, to in (
            (ARP, arp(MAC, ADDRESS, wire.address) + MARK, BROADCAST),
            (IPV4, ipv4(ADDRESS, UDP, udp(1, 2, MARK), wire.address), wire.mac),
            (IPV4, ipv4(ADDRESS, UDP, udp(1, 2, MARK), wire.address), bridge),
            (IPV4, ipv4(ADDRESS, UDP, udp(1, 2, MARK), "10.88.0.255"), bridge),
        ):
            mine.send(kind, payload, to=to)
        assert not any(MARK in data for data in everything(wire))
    for wire in (mine, *theirs):
        wire.close()


def test_a_host_s_address_on_one_overlay_is_closed_to_another(
    lab: Lab, others: list[OverlayNetwork], guest: Guest
) -> None:
    Servers(lab, lab.hosts[0])
    assert not guest.place.reaches("10.88.0.1") and not connects(guest.place, "10.88.0.1", 53)
    assert guest.place.reaches(OVERLAY)


def test_a_tap_of_one_overlay_is_nobody_on_another(lab: Lab, others: list[OverlayNetwork]) -> None:
    """The rules of each are its own: what one makes anew leaves the other's guests as they are."""
    host = lab.hosts[0]
    guest = start_guest(lab, host, "uid-a", MAC, ADDRESS)
    host.do(others[0].secure())
    host.do(others[0].remove())
    guest.place.ping(OVERLAY)


def heard(sender: Wire, receiver: Wire, content: str) -> bool:
    sender.call(content.encode())
    return any(content.encode() in data for data in everything(receiver, 0.05))


def everything(wire: Wire, seconds: float = 0.3) -> Iterator[bytes]:
    """What is received until nothing comes any more."""
    while wire.has_frame(seconds):
        yield wire.receive()
