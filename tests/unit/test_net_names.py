"""Names and tags: short enough, the same for ever, and never confused with each other."""

from __future__ import annotations

import re
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.drivers.net.names import (
    IFNAME_MAX,
    PortTag,
    bridge_mac,
    bridge_name,
    network_tag,
    tap_name,
    vxlan_name,
)

UID = "7f3c1f2e-54b1-4f0c-9f64-0d6a3a1c9b11"
LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


def test_tap_names_are_known_for_ever() -> None:
    """Running guests hold these names; another scheme would lose their taps at an upgrade."""
    assert tap_name(UID, 0) == "vdcb3257c7afn0"
    assert tap_name(UID, 12) == "vdcb3257c7afn12"


@given(st.text(min_size=1, max_size=80), st.integers(0, 99))
def test_tap_names_fit(uid: str, index: int) -> None:
    name = tap_name(uid, index)
    assert len(name) <= IFNAME_MAX
    assert re.fullmatch(r"vdc[0-9a-f]{9}n\d+", name)


def test_tap_names_differ_by_uid_and_index() -> None:
    names = {tap_name(f"uid-{number}", index) for number in range(2000) for index in range(4)}
    assert len(names) == 8000


@pytest.mark.parametrize("index", [-1, 100])
def test_an_index_that_does_not_fit_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="outside 0 to 99"):
        tap_name(UID, index)


def test_short_networks_keep_their_names() -> None:
    assert (bridge_name("default"), vxlan_name("default")) == ("br-default", "vx-default")
    assert bridge_name("exactlytwelv") == "br-exactlytwelv"


@given(LABELS, LABELS)
def test_network_interfaces_fit_and_differ(one: str, other: str) -> None:
    for name in (bridge_name(one), vxlan_name(one)):
        assert len(name) <= IFNAME_MAX
    assert bridge_name(one) != vxlan_name(one)
    if one != other:
        assert bridge_name(one) != bridge_name(other)


def test_long_networks_with_the_same_beginning_differ() -> None:
    assert bridge_name("production-one") != bridge_name("production-two")
    assert bridge_name("production-one").startswith("br-produc-")


def test_the_bridge_has_a_local_unicast_mac_of_its_own() -> None:
    mac = bridge_mac(100, IPv4Address("10.77.0.1"))
    assert re.fullmatch(r"02(:[0-9a-f]{2}){5}", mac)
    assert mac == bridge_mac(100, IPv4Address("10.77.0.1"))
    assert mac not in (bridge_mac(101, IPv4Address("10.77.0.1")), bridge_mac(100, IPv4Address("10.77.0.2")))


@given(LABELS, st.uuids(), st.binary(min_size=6, max_size=6))
def test_tags_survive_the_way_through_the_kernel(network: str, uid: object, mac: bytes) -> None:
    tag = PortTag(network=network, uid=str(uid), mac=mac.hex(":"))
    assert PortTag.parse(str(tag)) == tag
    assert len(str(tag)) < 256  # IFALIASZ


@pytest.mark.parametrize(
    "alias",
    ["", "vdc:port:", "vdc:port:net", "vdc:port:net:uid", "vdc:port::uid:mac", "uplink", network_tag("n")],
)
def test_other_aliases_are_not_ours(alias: str) -> None:
    assert PortTag.parse(alias) is None
