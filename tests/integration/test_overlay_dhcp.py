"""Addresses and names on the overlay, from a real dnsmasq on every host."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from hostagent.drivers.net import Change, DhcpDns, DhcpDnsConfig, Port, Reservation, dnsmasq
from tests.integration.netns_support import (
    ADDRESSES,
    NETWORK,
    Guest,
    Host,
    Lab,
    Place,
    runtime_root,
    wait_until,
)
from vdc.confinement.seccomp import filter_descriptor

ROOT = runtime_root()
UID = 1_900_300_000
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(ROOT is None, reason="no runtime root: run `make setup`"),
]

MAC, MAC_B, STRANGER = "52:54:00:77:00:0a", "52:54:00:77:00:0b", "52:54:00:77:00:99"
ADDRESS, ADDRESS_B = "10.77.0.10", "10.77.0.11"
SERVERS = tuple(IPv4Address(f"10.77.0.{number}") for number in (1, 2, 3))
WEB = Reservation(name="web", mac=MAC, address=IPv4Address(ADDRESS))
DATABASE = Reservation(name="db", mac=MAC_B, address=IPv4Address(ADDRESS_B))
NOERROR, NXDOMAIN, REFUSED = 0, 3, 5
REFUSAL = b"\x06"


class Server:
    """One host's dnsmasq."""

    def __init__(self, lab: Lab, host: Host, folder: Path) -> None:
        self.host = host
        self.folder = folder
        self.files = DhcpDns(folder, seen_as=dnsmasq.SEEN_AS)
        assert self.write(WEB) is Change.RESTART
        self._lab = lab
        self.start()

    def start(self) -> None:
        argv = dnsmasq.sandboxed(self.files.argv(), UID, runtime_root=ROOT, folder=self.folder)
        with filter_descriptor(dnsmasq.FAMILIES) as filter_fd:
            argv[1:1] = ["--die-with-parent", "--seccomp", str(filter_fd)]
            self.process = self.host.popen(argv, stderr=subprocess.DEVNULL, pass_fds=(filter_fd,))
        self._lab.cleanup.callback(self.process.wait, 5)
        self._lab.cleanup.callback(self.process.kill)

    @property
    def pid(self) -> int:
        """Of dnsmasq, which is its sandbox's only child."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def restart(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        self.process.wait(5)
        self.start()

    def write(self, *reservations: Reservation) -> Change:
        return self.files.write(
            DhcpDnsConfig.of(
                NETWORK, interface=self.host.net.bridge, dns_servers=SERVERS, reservations=reservations
            )
        )


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab() as lab:
        lab.servers = [Server(lab, host, tmp_path / host.netns) for host in lab.hosts]
        for host in lab.hosts:
            wait_until(lambda h=host: resolve(h, f"10.77.0.{h.number}", "web.vdc.internal"), "dnsmasq runs")
        yield lab


def plug_guest(lab: Lab, uid: str, mac: str) -> Guest:
    port = Port.of(uid, 0, mac, ADDRESSES.get(mac, "10.77.0.99"))
    host = lab.hosts[0]
    host.do(host.net.attach_port(port, live=True))
    guest = Guest(lab, host, port.ifname, mac)
    # Joining the bridge settles when a frame of the guest arrives at another host.
    with lab.hosts[2].packet_socket(lab.hosts[2].net.bridge) as ear:

        def is_heard() -> bool:
            guest.send_broadcast(b"here")
            with contextlib.suppress(TimeoutError):
                return b"here" in ear.recv(2048)
            return False

        wait_until(is_heard, "the guest is on the overlay")
    return guest


def dhcp(guest: Guest, kind: int, *options: bytes, seconds: float) -> list[tuple[str, str, dict[int, bytes]]]:
    """Send a DHCP message by broadcast; return (offered address, server, options) of every answer."""
    transaction = secrets.randbits(32)
    mac = bytes.fromhex(guest.mac.replace(":", ""))
    message = struct.pack(">4BIHH16x16s192xI", 1, 1, 6, 0, transaction, 0, 0x8000, mac, 0x63825363)
    message += bytes((53, 1, kind)) + b"".join(options) + bytes((55, 6, 1, 3, 6, 12, 15, 26, 255))
    sock = guest.place.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    answers: dict[str, tuple[str, str, dict[int, bytes]]] = {}
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        sock.bind(("", 68))
        sock.sendto(message, ("255.255.255.255", 67))
        sock.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            while len(answers) < len(SERVERS):
                data = sock.recv(2048)
                if struct.unpack_from(">I", data, 4)[0] == transaction:
                    found = dhcp_options(data)
                    server = str(IPv4Address(found[54]))
                    answers[server] = (str(IPv4Address(data[16:20])), server, found)
    return list(answers.values())


def dhcp_options(data: bytes) -> dict[int, bytes]:
    found, offset = {}, 240
    while offset < len(data) and data[offset] != 255:
        if data[offset] == 0:
            offset += 1
            continue
        length = data[offset + 1]
        found[data[offset]] = data[offset + 2 : offset + 2 + length]
        offset += 2 + length
    return found


def resolve(place: Place, server: str, name: str) -> tuple[int, list[str]] | None:
    """Ask for A records: (response code, addresses), or None without an answer."""
    question = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    query = struct.pack(">6H", 0x7664, 0x0100, 1, 0, 0, 0) + question + struct.pack(">BHH", 0, 1, 1)
    with place.udp(timeout_s=1.0) as sock:
        try:
            sock.sendto(query, (server, 53))
            data = sock.recv(2048)
        except OSError:
            return None
    _, flags, _, count, _, _ = struct.unpack_from(">6H", data)
    # Every answer is a compressed name (2 bytes), type, class, time to live, length and the address.
    records = [data[len(query) + 16 * index :][:16] for index in range(count)]
    return flags & 0xF, sorted(str(IPv4Address(record[12:16])) for record in records)


def test_all_hosts_give_a_known_mac_the_same_answer(lab: Lab) -> None:
    guest = plug_guest(lab, "uid-a", MAC)
    answers = dhcp(guest, 1, seconds=3.0)
    assert {server for _, server, _ in answers} == {str(address) for address in SERVERS}
    for address, _, options in answers:
        assert address == ADDRESS
        assert options[1] == IPv4Address("255.255.255.0").packed
        assert options[6] == b"".join(server.packed for server in SERVERS)
        assert options[15] == b"vdc.internal" and options[12] == b"web"
        assert options[26] == struct.pack(">H", NETWORK.mtu)
        assert options[51] == b"\xff\xff\xff\xff"  # for ever
        assert 3 not in options  # no default router


def test_a_request_is_acknowledged_by_the_server_that_was_chosen(lab: Lab) -> None:
    guest = plug_guest(lab, "uid-a", MAC)
    wanted = bytes((50, 4)) + IPv4Address(ADDRESS).packed
    chosen = bytes((54, 4)) + SERVERS[1].packed
    answers = dhcp(guest, 3, wanted, chosen, seconds=1.0)
    assert [(address, server, options[53]) for address, server, options in answers] == [
        (ADDRESS, str(SERVERS[1]), b"\x05")
    ]


def test_a_guest_that_remembers_its_address_is_not_refused_by_new_servers(lab: Lab) -> None:
    guest = plug_guest(lab, "uid-a", MAC)
    remembered = bytes((50, 4)) + IPv4Address(ADDRESS).packed
    answers = dhcp(guest, 3, remembered, seconds=1.5)
    assert [server for _, server, options in answers if options[53] == REFUSAL] == []
    assert {address for address, *_ in dhcp(guest, 1, seconds=3.0)} == {ADDRESS}


def test_who_reads_what_guests_send_may_open_its_ports_and_nothing_else(lab: Lab) -> None:
    status = Path(f"/proc/{lab.servers[0].pid}/status").read_text()
    found = {line.split()[1] for line in status.splitlines() if line.startswith("Cap")}
    assert found == {f"{1 << 10:016x}"}  # NET_BIND_SERVICE


def test_an_unknown_mac_gets_no_answer(lab: Lab) -> None:
    stranger = plug_guest(lab, "uid-s", STRANGER)
    known = plug_guest(lab, "uid-a", MAC)
    assert dhcp(stranger, 1, seconds=1.5) == []
    assert dhcp(known, 1, seconds=3.0)  # the servers were there all the time


def test_names_resolve_on_every_host_and_nothing_leaks(lab: Lab) -> None:
    guest = plug_guest(lab, "uid-a", MAC)
    guest.place.ip("addr", "add", f"{ADDRESS}/24", "dev", "eth0")
    for server in map(str, SERVERS):
        assert resolve(guest.place, server, "web.vdc.internal") == (NOERROR, [ADDRESS])
        assert resolve(guest.place, server, "web") == (NOERROR, [ADDRESS])
        assert resolve(guest.place, server, "nobody.vdc.internal") == (NXDOMAIN, [])
        answer = resolve(guest.place, server, "example.org")
        assert answer is not None and answer[0] == REFUSED
    host = lab.hosts[0]
    assert resolve(host, "10.9.0.1", "web.vdc.internal") is None  # the overlay's address alone is served
    assert resolve(host, "127.0.0.1", "web.vdc.internal") is None


def test_a_reload_adds(lab: Lab) -> None:
    server = lab.servers[0]
    newcomer = plug_guest(lab, "uid-b", MAC_B)
    mine = str(SERVERS[0])
    assert server.write(WEB) is Change.NOTHING
    assert server.write(WEB, DATABASE) is Change.RELOAD
    server.files.reload(server.pid)
    wait_until(
        lambda: resolve(lab.hosts[0], mine, "db.vdc.internal") == (NOERROR, [ADDRESS_B]),
        "the new name resolves",
    )
    assert [address for address, *_ in dhcp(newcomer, 1, seconds=1.0)] == [ADDRESS_B]
    assert server.process.poll() is None


def test_an_address_changes_hands(lab: Lab) -> None:
    """A deleted guest's lease must not keep its address from the next one that it is reserved for."""
    guest = plug_guest(lab, "uid-a", MAC)
    newcomer = plug_guest(lab, "uid-b", MAC_B)
    assert {address for address, *_ in dhcp(guest, 1, seconds=1.0)} == {ADDRESS}
    successor = Reservation(name="next", mac=MAC_B, address=IPv4Address(ADDRESS))
    for server in lab.servers:
        assert server.write(successor) is Change.RESTART
        server.restart()
    mine = str(SERVERS[0])
    wait_until(lambda: resolve(lab.hosts[0], mine, "next.vdc.internal") == (NOERROR, [ADDRESS]), "it serves")
    assert resolve(lab.hosts[0], mine, "web.vdc.internal") == (NXDOMAIN, [])
    wait_until(lambda: {address for address, *_ in dhcp(newcomer, 1, seconds=1.0)} == {ADDRESS}, "it got it")
