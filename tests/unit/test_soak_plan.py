"""The soak's faults follow from seed and number alone, so that one can be had again."""

from __future__ import annotations

import pytest

from tests.soak.plan import DIRECTIONS, NETWORKS, Fault, Kind, Part, fault, moment_s

MANY = range(1, 2_001)


def test_the_same_seed_and_number_give_the_same_fault_whatever_came_before():
    assert [fault(7, number) for number in MANY] == [fault(7, number) for number in MANY]
    assert fault(7, 1_234) == [fault(7, number) for number in MANY][1_233]
    assert moment_s(7, 3) == moment_s(7, 3) != moment_s(7, 4)


def test_another_seed_gives_another_history():
    assert [fault(7, number) for number in range(20)] != [fault(8, number) for number in range(20)]


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_comes(kind):
    assert any(fault(1, number).kind is kind for number in MANY)


def test_every_part_network_and_direction_is_struck():
    faults = [fault(1, number) for number in MANY]
    assert {one.part for one in faults} == {*Part, None}
    cuts = {(one.details["network"], one.details["direction"]) for one in faults if one.kind is Kind.CUT}
    assert cuts == {(network, direction) for network in NETWORKS for direction in DIRECTIONS}


def test_a_fault_reads_as_a_sentence():
    shown = str(Fault(3, Kind.CUT, Part.PRIMARY, {"network": "all", "hold_s": 1.0}))
    assert shown == "cut a network of the primary (network all, hold_s 1.0)"
