"""On the networks between the hosts a stranger gets nothing of the cluster's, and the hosts everything."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import tempfile
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from hostagent.agent import packetfilter
from hostagent.agent.packetfilter import PacketFilter
from hostagent.config import AgentConfig
from hostagent.drivers.net import Port, nft, underlay
from hostagent.drivers.qemu.sockets import Network
from tests.integration.netns_support import ADDRESS, MAC, NETWORK, Host, Lab, Place, run, wait_until
from tests.integration.packets import ARP, BROADCAST, arp, frame
from tests.integration.wires import Wire
from vdc.control.clock import SystemClock
from vdc.model.host import Host as Record
from vdc.store import keys
from vdc.store.memory import MemoryStore
from vdc.store.mirror import Mirror
from vdc.store.protocol import Delete, Put

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

API, ETCD_CLIENT, ETCD_PEER, REPLICATION, SSH = 7400, 7379, 7380, 21000, 22
TCP_PORTS = (API, ETCD_CLIENT, ETCD_PEER, REPLICATION, SSH)
HEARTBEAT, VXLAN = 7401, 4789
NEAR, FAR = "10.9.0.1", "10.8.0.1"  # the subject on the management and on the replication network


class Jumping(SystemClock):
    """A clock that can be set forward."""

    ahead_s = 0.0

    def boottime_s(self) -> float:
        return super().boottime_s() + self.ahead_s


def lets_in(place: Place, address: str, port: int) -> bool:
    """Whether a TCP connection from there comes about."""

    def attempt() -> bool:
        with socket.socket() as sock:
            sock.settimeout(0.3)
            return sock.connect_ex((address, port)) == 0

    return place.call(attempt)


class Subject:
    """The first host: everything listens on it, and a packet filter follows the records."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.host: Host = lab.hosts[0]
        self.clock, self.store = Jumping(), MemoryStore()
        self.config = AgentConfig.model_validate(
            {
                "host": "h1",
                "state_dir": folder,
                "management": {"address": NEAR, "interface": "u0"},
                "replication": {"address": FAR, "interface": "m0"},
                "overlay_address": "10.77.0.1",
                "network": NETWORK.model_dump(),
                "etcd": {"embedded": {"members": {"h1": NEAR}}},
            }
        )
        for port in TCP_PORTS:
            lab.cleanup.callback(self.host.call(socket.create_server, ("", port)).close)
        self.heartbeats = self.host.udp(port=HEARTBEAT)
        lab.cleanup.callback(self.heartbeats.close)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *, knows: bool = True) -> None:
        """An agent's filter; without a store that answers it knows no records."""

        async def begin() -> None:
            mirror = Mirror(self.store, report=print)
            self.filter = PacketFilter(self.config, self.clock, self.host.net)
            await self.filter.begin()
            runs = [self.filter.run(mirror), *([mirror.run()] if knows else [])]
            self._tasks = [asyncio.create_task(run) for run in runs]

        self.host.do(begin())

    def die(self) -> None:
        """The agent ends, and does nothing on its way out."""

        async def cancel() -> None:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self.host.do(cancel())

    def hears_of(self, *numbers: int) -> None:
        """These are the cluster's hosts now."""
        puts = [Put(keys.host(f"h{number}"), record(number).to_json()) for number in numbers]
        gone = [Delete(keys.host(f"h{number}")) for number in {1, 2, 3} - set(numbers)]
        self.host.do(self.store.commit([], [*puts, *gone]))

    def hears(self, place: Place, address: str) -> bool:
        """Whether a heartbeat from there arrives."""
        with place.udp() as sock:
            sock.sendto(b"heartbeat", (address, HEARTBEAT))
        with contextlib.suppress(TimeoutError):
            return bool(self.heartbeats.recv(2048))
        return False

    def open_to(self, place: Place) -> set[str]:
        """All that gets in from there."""
        found = {f"{a}:{p}" for a in (NEAR, FAR) for p in TCP_PORTS if lets_in(place, a, p)}
        found |= {f"{address} heartbeat" for address in (NEAR, FAR) if self.hears(place, address)}
        return found | {f"{address} echo" for address in (NEAR, FAR) if place.reaches(address)}


ALL = {f"{a}:{p}" for a in (NEAR, FAR) for p in TCP_PORTS}
ALL |= {f"{address} {what}" for address in (NEAR, FAR) for what in ("heartbeat", "echo")}
FOR_ANYBODY = {
    f"{NEAR}:{API}",
    f"{NEAR}:{ETCD_CLIENT}",
    f"{NEAR}:{REPLICATION}",
    f"{NEAR}:{SSH}",
    f"{NEAR} echo",
}


def record(number: int) -> Record:
    """What a host's agent publishes."""
    return Record(
        name=f"h{number}", api_url="", management_address=f"10.9.0.{number}",
        replication_address=f"10.8.0.{number}", overlay_address=f"10.77.0.{number}", heartbeat_port=HEARTBEAT,
        agent_version="", incarnation=1, cpus=1, memory_bytes=0,
    )  # fmt: skip


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(hosts=3) as lab:
        yield lab


@pytest.fixture
def subject(lab: Lab) -> Iterator[Subject]:
    """It has heard of two hosts; the third is a stranger on both networks."""
    with tempfile.TemporaryDirectory(prefix="vdc-") as folder:  # short: sockets are in it
        subject = Subject(lab, Path(folder))
        subject.start()
        try:
            subject.hears_of(1, 2)
            settled(lab.hosts[2], is_in=False)
            yield subject
        finally:
            subject.die()


def settled(place: Place, *, is_in: bool) -> None:
    wait_until(lambda: lets_in(place, FAR, REPLICATION) == is_in, "the rules follow")


def test_the_hosts_get_everything_and_a_stranger_only_what_asks_who_it_is(lab: Lab, subject: Subject) -> None:
    assert subject.open_to(lab.hosts[1]) == ALL
    assert subject.open_to(lab.hosts[2]) == FOR_ANYBODY
    assert subject.filter.trouble == ""


def test_what_was_made_for_a_qemu_leads_nowhere_else(lab: Lab, subject: Subject) -> None:
    """As `test_confinement` tries it from inside; here, what is left of the host's network to such a socket."""
    host, peer = subject.host, lab.hosts[1]
    listen, connect = partial(host.call, Network().listen), Network().connect
    with (
        peer.call(socket.create_server, ("", REPLICATION)),
        host.do(connect("10.8.0.2", REPLICATION)) as sock,
        host.do(connect("10.8.0.2", REPLICATION)) as control,
        listen(FAR, 0) as listening,
    ):
        assert lets_in(peer, FAR, listening.getsockname()[1]), "what it is for"
        control.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0)
        for address, port in (("10.8.0.2", REPLICATION), (NEAR, API), (FAR, SSH), ("127.0.0.1", SSH)):
            assert turned(control, address, port)
            assert not turned(sock, address, port)
    with listen(NEAR, 0) as listening:
        port = listening.getsockname()[1]
        assert not lets_in(lab.hosts[2], NEAR, port)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0)
        assert lets_in(lab.hosts[2], NEAR, port)


def turned(sock: socket.socket, address: str, port: int) -> bool:
    """Whether a connection that exists can be made one with somebody else."""
    nobody = ctypes.create_string_buffer(16)
    assert ctypes.CDLL(None).connect(sock.fileno(), nobody, len(nobody)) == 0  # AF_UNSPEC ends it
    sock.settimeout(0.3)
    return sock.connect_ex((address, port)) == 0


def test_a_stranger_does_not_come_to_the_replication_address_by_the_other_network(
    lab: Lab, subject: Subject
) -> None:
    stranger = lab.hosts[2]
    stranger.ip("route", "add", f"{FAR}/32", "via", NEAR)
    assert subject.open_to(stranger) == FOR_ANYBODY


def test_a_stranger_does_not_come_to_the_management_address_by_the_other_network(
    lab: Lab, subject: Subject
) -> None:
    stranger = lab.hosts[2]
    stranger.ip("route", "add", f"{NEAR}/32", "via", FAR, "src", "10.8.0.3")
    assert subject.open_to(stranger) == set()


def test_ipv6_ends_at_the_replication_network(lab: Lab, subject: Subject) -> None:
    host, stranger = subject.host, lab.hosts[2]
    listed = ("-o", "-6", "addr", "show", "dev", "m0", "-tentative")
    shown, _ = (
        wait_until(lambda p=p: p.ip(*listed), "it has a link-local address") for p in (host, stranger)
    )
    address = shown.split()[3].partition("/")[0]
    with host.call(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.bind(("::", 5000))
        server.settimeout(0.2)
        scope = stranger.call(socket.if_nametoindex, "m0")
        with stranger.call(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            for target in (address, "ff02::1"):
                sock.sendto(b"from-a-stranger", (target, 5000, 0, scope))
                with pytest.raises(TimeoutError):
                    server.recv(2048)


def test_the_overlay_is_open_to_its_hosts_and_gateways_alone(lab: Lab, subject: Subject) -> None:
    guest = Wire(subject.host, Port.of("uid-a", 0, MAC, ADDRESS))

    def arrives(place: Place, ifname: str) -> bool:
        with place.packet_socket(ifname) as sock:
            mark, mac = place.netns.encode(), place.call(sock.getsockname)[4].hex(":")
            sock.send(frame(BROADCAST, mac, ARP, arp(mac, f"10.77.0.{200 + len(mark)}") + mark))
        while guest.has_frame(0.1):
            if mark in guest.receive():
                return True
        return False

    member, stranger = lab.hosts[1], lab.hosts[2]
    wait_until(lambda: arrives(member, member.net.vxlan), "a host is heard")
    wait_until(lambda: arrives(lab.client, "vx"), "a gateway is heard")
    for _ in range(5):
        assert not arrives(stranger, stranger.net.vxlan)
    guest.close()


def test_a_host_that_joins_is_let_in_and_one_that_is_removed_is_not(lab: Lab, subject: Subject) -> None:
    newcomer = lab.hosts[2]
    subject.hears_of(1, 2, 3)
    settled(newcomer, is_in=True)
    assert subject.open_to(newcomer) == ALL
    subject.hears_of(1, 2)
    subject.clock.ahead_s = packetfilter.FORGET_S + 1
    subject.hears_of(1, 2)
    settled(newcomer, is_in=False)
    assert subject.open_to(newcomer) == FOR_ANYBODY
    assert subject.open_to(lab.hosts[1]) == ALL


def test_an_emptied_store_does_not_cut_a_peer_off(lab: Lab, subject: Subject) -> None:
    subject.hears_of()
    subject.hears_of(3)  # when it is let in, it was seen that the others went
    settled(lab.hosts[2], is_in=True)
    assert subject.open_to(lab.hosts[1]) == ALL


def test_rules_stay_when_the_agent_dies_and_while_the_next_one_knows_nothing(
    lab: Lab, subject: Subject
) -> None:
    subject.die()
    assert subject.open_to(lab.hosts[1]) == ALL and subject.open_to(lab.hosts[2]) == FOR_ANYBODY
    subject.start(knows=False)
    assert subject.open_to(lab.hosts[1]) == ALL and subject.open_to(lab.hosts[2]) == FOR_ANYBODY
    subject.die()
    subject.host.do(nft.apply("flush ruleset"))  # as after a power-off
    subject.start(knows=False)
    assert subject.open_to(lab.hosts[1]) == ALL and subject.open_to(lab.hosts[2]) == FOR_ANYBODY


def test_an_agent_that_never_knew_the_cluster_cuts_nobody_off(lab: Lab, subject: Subject) -> None:
    subject.die()
    subject.host.do(nft.apply("flush ruleset"))
    (subject.config.state_dir / packetfilter.FILE).unlink()
    subject.start(knows=False)
    assert subject.open_to(lab.hosts[1]) == ALL == subject.open_to(lab.hosts[2])


def test_rules_that_somebody_took_away_come_back(
    lab: Lab, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject.die()
    monkeypatch.setattr(packetfilter, "KEEP_EVERY_S", 0.05)
    subject.start()
    subject.host.do(nft.apply("flush ruleset"))
    settled(lab.hosts[2], is_in=False)
    wanted = {underlay.NAME, *subject.host.net.tables}
    wait_until(lambda: subject.host.do(nft.are_present(wanted)), "all of them")


def test_what_cannot_be_set_is_said(lab: Lab, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    subject.die()
    monkeypatch.setattr(nft, "_PATH", "/nowhere")
    subject.start()
    assert subject.filter.trouble == "the packet filter cannot be set: nft was not found"


def test_one_network_for_both_is_closed_as_far_as_it_can_be(lab: Lab) -> None:
    """Two addresses on one interface: what is for the replication address is told apart."""
    host, stranger = lab.hosts[0], lab.hosts[2]
    host.ip("addr", "add", "10.9.0.51/24", "dev", "u0")
    with host.call(socket.create_server, ("", 21000)):
        own, peer = IPv4Address(NEAR), IPv4Address("10.9.0.2")
        both = frozenset({own, peer})
        rules = underlay.rules(
            underlay.Underlay("u0", "u0", IPv4Address("10.9.0.51"), HEARTBEAT, None),
            underlay.Admitted(both, both, both),
        )
        host.do(nft.apply(rules))
        assert lets_in(lab.hosts[1], "10.9.0.51", 21000)
        assert not lets_in(stranger, "10.9.0.51", 21000)
        assert lets_in(stranger, NEAR, 21000)


def test_uninstalling_as_documented_leaves_the_rules_of_others(lab: Lab, subject: Subject) -> None:
    subject.die()
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    (command,) = [line for line in page.splitlines() if line.startswith("nft list tables |")]
    own = "table inet of_the_administrator {\n}\n"
    subject.host.do(nft.apply(own))
    inside = ("ip", "netns", "exec", subject.host.netns)
    assert "vdc_underlay" in run(*inside, "nft", "list", "ruleset")
    run(*inside, "sh", "-c", command)
    assert run(*inside, "nft", "list", "ruleset") == own
