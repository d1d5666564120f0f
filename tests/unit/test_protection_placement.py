"""Placement chooses by room, respects what is asked for, and says why not."""

from __future__ import annotations

import pytest
from protection_world import endophyte, host, pair

from vdc.model.errors import RefusedError
from vdc.model.manifest import ISOLATION_LEVEL
from vdc.model.units import GIB, MIB
from vdc.protection.placement import (
    Occupancy,
    choose_primary,
    choose_secondary,
    choose_spares,
    primary_cost_bytes,
    secondary_cost_bytes,
)

EMPTY = Occupancy.of([], {})
HOSTS = [host("h1"), host("h2"), host("h3")]


def test_the_roomiest_host_is_taken_and_ties_go_by_name():
    assert choose_primary(endophyte(), HOSTS, EMPTY) == "h1"
    assert choose_primary(endophyte(), [host("h1", memory=GIB), host("h2", memory=4 * GIB)], EMPTY) == "h2"


def test_a_secondary_needs_twice_the_guests_memory():
    one = endophyte(memory="1GiB")
    assert secondary_cost_bytes(one) == 2 * GIB + 180 * MIB
    hosts = [host("h1"), host("h2", memory=2 * GIB)]
    with pytest.raises(RefusedError, match=r"h2 has 2GiB of memory free, 2\.18GiB are needed"):
        choose_secondary(one, pair(secondary=None, spares=("h2",)), hosts, EMPTY)


def test_too_little_memory_is_refused_with_each_hosts_reason():
    with pytest.raises(RefusedError) as caught:
        choose_primary(endophyte(memory="9GiB"), HOSTS, EMPTY)
    assert caught.value.code == "no-host"
    assert "h1 has 8GiB" in str(caught.value) and "h3 has 8GiB" in str(caught.value)


def test_what_is_placed_counts():
    other = endophyte("other", memory="6GiB")
    occupied = Occupancy.of([pair(name="other")], {"other": other})
    assert occupied.reserved_bytes["h1"] == primary_cost_bytes(other)
    assert choose_primary(endophyte(memory="4GiB"), HOSTS, occupied) == "h3"


def test_a_secondary_goes_to_a_spare_before_anywhere_else():
    assert choose_secondary(endophyte(), pair(secondary=None, spares=("h3",)), HOSTS, EMPTY) == "h3"


def test_a_host_that_just_failed_is_left_alone_for_a_while():
    before = pair(secondary=None, spares=("h2", "h3"))
    assert choose_secondary(endophyte(), before, HOSTS, EMPTY, avoid=frozenset({"h2"})) == "h3"


def test_nobody_is_tried_over_a_link_that_is_not_heard():
    before, dead = pair(secondary=None, spares=("h2", "h3")), frozenset({"h2", "h3"})
    assert choose_secondary(endophyte(), before, HOSTS, EMPTY, unreachable=frozenset({"h2"})) == "h3"
    with pytest.raises(RefusedError, match="h2 and h1 do not hear each other"):
        choose_secondary(endophyte(), before, HOSTS[:3], EMPTY, unreachable=dead)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (host("h2", lockstep=False, version="7.2.0"), "QEMU 7.2.0 on h2 cannot do lockstep"),
        (host("h2", version="11.0.0"), "h1 runs QEMU 11.1.3, h2 11.0.0"),
        (host("h2", accelerator="kvm"), "h1 runs guests by tcg, h2 runs guests by kvm"),
    ],
)
def test_hosts_that_do_not_match_are_no_pair(other, reason):
    with pytest.raises(RefusedError, match=reason):
        choose_secondary(endophyte(), pair(secondary=None), [host("h1"), other], EMPTY)


def test_one_host_only_is_said_so():
    with pytest.raises(RefusedError, match="no host can take a secondary"):
        choose_secondary(endophyte(), pair(secondary=None, spares=()), [host("h1")], EMPTY)


def test_a_dedicated_endophyte_shares_its_hosts_with_nobody():
    other = endophyte("other")
    occupied = Occupancy.of([pair(name="other")], {"other": other})
    alone = endophyte(annotations={ISOLATION_LEVEL: "dedicated"})
    assert choose_primary(alone, HOSTS, occupied) == "h3"
    taken = Occupancy.of([pair(name="web")], {"web": alone})
    assert choose_primary(other, HOSTS, taken) == "h3"


def test_spares_are_what_dedicated_nodes_leaves():
    assert choose_spares(endophyte(), pair(spares=()), HOSTS, EMPTY) == ("h3",)
    assert choose_spares(endophyte(nodes=2), pair(spares=("h3",)), HOSTS, EMPTY) == ()


def test_labels_and_drained_hosts_are_respected():
    hosts = [host("h1", schedulable=False), host("h2"), host("h3", labels={"disk": "fast"})]
    assert choose_primary(endophyte(), hosts, EMPTY) == "h2"
    assert choose_primary(endophyte(placement={"nodeSelector": {"disk": "fast"}}), hosts, EMPTY) == "h3"
