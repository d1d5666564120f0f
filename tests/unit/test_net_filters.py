"""The packet filter's rules as text: golden files, and which addresses they are about."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.drivers.net import Port, doors, nft, portsecurity, underlay
from hostagent.drivers.net.names import PortTag
from hostagent.drivers.net.ports import PortState, bindings_of
from hostagent.drivers.net.portsecurity import Binding, without
from hostagent.drivers.net.segment import Segment
from vdc.model.manifest import MAX_ALLOWED_ADDRESSES, MAX_NICS
from vdc.model.network import MAX_NAME, Network

GOLDEN = Path(__file__).parent / "golden" / "net"
SEGMENT = Segment(Network(), IPv4Address("192.0.2.11"), IPv4Address("10.77.0.1"))
PLAIN = Binding.of("vdc000000001n0", "52:54:00:00:00:0A", "10.77.0.10")
ROUTER = Binding.of("vdc000000002n0", "52:54:00:00:00:0b", "10.77.0.11", "0.0.0.0/0")
PLACE = underlay.Underlay("eth0", "eth1", IPv4Address("198.51.100.11"), 7401, 7380)
ADMITTED = underlay.Admitted(
    hosts=frozenset(map(IPv4Address, ("192.0.2.12", "192.0.2.11", "198.51.100.11", "198.51.100.12"))),
    replication=frozenset(map(IPv4Address, ("198.51.100.12", "198.51.100.11"))),
    endpoints=frozenset(map(IPv4Address, ("192.0.2.11", "192.0.2.12", "192.0.2.200"))),
)
WITNESS = underlay.Underlay("eth0", "eth0", None, 7401, None)

CASES = {
    "ports": portsecurity.rules(SEGMENT, [PLAIN, ROUTER]),
    "ports-refilled": portsecurity.refilling(SEGMENT, [PLAIN]),
    "doors": doors.rules(SEGMENT, [PLAIN.ifname, ROUTER.ifname]),
    "underlay": underlay.rules(PLACE, ADMITTED),
    "underlay-witness": underlay.rules(
        WITNESS, underlay.Admitted(ADMITTED.hosts, frozenset(), ADMITTED.endpoints)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rules_are_the_golden_ones(name: str) -> None:
    path = GOLDEN / f"{name}.nft"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(CASES[name])
    assert CASES[name] == path.read_text()


ADDRESSES = st.integers(0, 2**32 - 1).map(IPv4Address)
PREFIXES = st.builds(
    lambda address, bits: IPv4Network((address, bits), strict=False), ADDRESSES, st.integers(0, 32)
)


@given(st.lists(PREFIXES, max_size=4), ADDRESSES, ADDRESSES, ADDRESSES)
def test_ranges_hold_what_the_prefixes_hold_but_for_what_is_reserved(prefixes, one, other, probe) -> None:
    first, last = min(one, other), max(one, other)
    ranges = without(prefixes, first, last)
    for address in (
        probe,
        first,
        last,
        *(prefix[0] for prefix in prefixes),
        *(prefix[-1] for prefix in prefixes),
    ):
        is_wanted = any(address in prefix for prefix in prefixes) and not first <= address <= last
        assert sum(low <= address <= high for low, high in ranges) == is_wanted  # and never in two of them


@pytest.mark.parametrize(
    ("mac", "address", "allowed"),
    [
        ("52:54:00:00:00:0a } }; flush ruleset", "10.77.0.10", []),
        ("52:54:00:00:00:0a", "10.77.0.10 } }; flush ruleset", []),
        ("52:54:00:00:00:0a", "10.77.0.10", ["0.0.0.0/0 }; flush ruleset"]),
        ("", "10.77.0.10", []),
    ],
)
def test_what_is_no_address_never_becomes_a_rule(mac, address, allowed) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|permitted|valid netmask"):
        Binding.of("vdc000000001n0", mac, address, *allowed)


def test_a_tap_is_bound_as_its_tag_says() -> None:
    port = Port.of(
        "uid", 0, "52:54:00:00:00:0A", "10.77.0.10",
        shared=["10.77.0.11"], allowed=[IPv4Network("192.0.2.0/24")],
    )  # fmt: skip
    states = [
        PortState(port.ifname, "uid", port.mac, senders, is_live=False, is_up=True, is_open=False)
        for senders in (port.senders, (), ("nonsense",))
    ]
    assert bindings_of(states) == [port.binding]
    assert port.binding == Binding(
        port.ifname,
        "52:54:00:00:00:0a",
        (IPv4Address("10.77.0.10"), IPv4Address("10.77.0.11")),
        (IPv4Network("192.0.2.0/24"),),
    )


def test_the_longest_tag_fits_into_an_alias() -> None:
    longest = PortTag(
        "n" * MAX_NAME,
        "1" * 36,
        "52:54:00:00:00:0a",
        (*["255.255.255.255"] * MAX_NICS, *["255.255.255.255/32"] * MAX_ALLOWED_ADDRESSES),
    )
    assert len(str(longest)) < 256  # IFALIASZ
    assert PortTag.parse(str(longest)) == longest


async def test_tables_are_found_by_family_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = "table bridge vdc_guard\ntable inet vdc_underlay\n"
    monkeypatch.setattr(nft, "_run", lambda arguments, script="": listing)
    assert await nft.are_present({"bridge vdc_guard", "inet vdc_underlay"})
    assert not await nft.are_present({"inet vdc_guard"})
    assert await nft.are_present(())
