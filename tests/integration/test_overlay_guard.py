"""What lockstep does not compare is held at a protected guest's port, both ways, and passes elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hostagent.drivers.net import Port, guard
from tests.integration.netns_support import (
    ADDRESS,
    ADDRESS_B,
    MAC,
    MAC_B,
    Host,
    Lab,
    run,
    wait_until,
)
from tests.integration.packets import ARP, ICMP, IPV4, IPV6, RARP, TCP, UDP, arp, ipv4, ipv6, rarp
from tests.integration.wires import END, Wire, reaches

MAC_C, ADDRESS_C = "52:54:00:00:00:0c", "10.77.0.12"
GRE, SCTP = 47, 132
COVERED = {"ARP", "RARP", "TCP", "UDP", "ICMP"}
UNCOVERED = {"IPv6", "GRE", "SCTP"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def kinds(sender: Wire) -> dict[str, tuple[int, bytes]]:
    """One frame of this guest of each kind, by name; each has its name in it."""

    def packet(protocol: int, name: bytes) -> bytes:
        return ipv4(sender.address, protocol, bytes(8) + name)

    return {
        "ARP": (ARP, arp(sender.mac, sender.address) + b"ARP"),
        "RARP": (RARP, rarp(sender.mac) + b"RARP"),
        "TCP": (IPV4, packet(TCP, b"TCP")),
        "UDP": (IPV4, packet(UDP, b"UDP")),
        "ICMP": (IPV4, packet(ICMP, b"ICMP")),
        "IPv6": (IPV6, ipv6("fe80::1", b"IPv6")),
        "GRE": (IPV4, packet(GRE, b"GRE")),
        "SCTP": (IPV4, packet(SCTP, b"SCTP")),
    }


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
        "gated": Wire(host, Port.of("uid-a", 0, MAC, ADDRESS)),
        "open": Wire(host, Port.of("uid-b", 0, MAC_B, ADDRESS_B, is_gated=False)),
        "other": Wire(host, Port.of("uid-c", 0, MAC_C, ADDRESS_C, is_gated=False)),
    }
    for sender in wires.values():  # the bridge may take up to a second to notice that a tap is open
        for receiver in wires.values():
            if sender is not receiver:
                wait_until(lambda s=sender, r=receiver: reaches(s, r), "the ports forward")
    for wire in wires.values():
        wire.drain()
    yield wires
    for wire in wires.values():
        wire.close()


def passed(sender: Wire, receiver: Wire) -> set[str]:
    """The kinds of frames that arrive; after each comes one that always does."""
    found = set()
    for name, (kind, payload) in kinds(sender).items():
        sender.send(kind, payload)
        sender.call(END)
        if name.encode() in receiver.heard_until_end():
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
