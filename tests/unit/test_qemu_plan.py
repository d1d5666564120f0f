"""Names and ports of a lockstep: no two of them meet, within a pair, across pairs or across epochs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.drivers.qemu.plan import LAST_SLOT, LockstepPlan, LockstepPorts, epoch_in
from vdc.model.manifest import MAX_DISKS, MAX_NICS
from vdc.model.pair import Pair

PLAN = LockstepPlan(
    epoch=7,
    disks=MAX_DISKS,
    nics=MAX_NICS,
    primary_address="10.0.0.1",
    secondary_address="10.0.0.2",
    ports=LockstepPorts.for_slot(3, 7),
)


def all_names(plan: LockstepPlan) -> list[str]:
    names = [*plan.primary_chardevs(), *plan.primary_objects()]
    for j in range(plan.nics):
        names += [*plan.red_chardevs(j), *plan.secondary_filters(j)]
    for i in range(plan.disks):
        names += [plan.nbd_node(i), plan.replication_node(i), plan.mirror_job(i), plan.export(i)]
    return names


def all_ports(ports: LockstepPorts) -> set[int]:
    return {*ports.mirror, *ports.compare, ports.nbd, ports.migration}


def test_names_are_unique_and_carry_the_epoch() -> None:
    names = all_names(PLAN)
    assert len(set(names)) == len(names)
    assert {epoch_in(name) for name in names} == {7}


def test_names_of_two_epochs_never_meet() -> None:
    assert not set(all_names(PLAN)) & set(all_names(replace(PLAN, epoch=8)))


def test_names_fit_into_qemu_and_into_a_socket_address() -> None:
    late = replace(PLAN, epoch=10**9)
    assert all(len(name) < 32 for name in all_names(late))
    assert all(len(late.local_socket(name)) < 100 for name in late.primary_chardevs())


def test_the_rewriter_has_no_epoch() -> None:
    assert PLAN.rewriter(0) == "rew0"
    assert epoch_in(PLAN.rewriter(0)) is None


@pytest.mark.parametrize(
    "name", ["disk0", "img0", "parent0", "hn0", "compat_monitor0", "con0", "#block123", "x-e"]
)
def test_other_names_have_no_epoch(name: str) -> None:
    assert epoch_in(name) is None


@given(st.integers(0, LAST_SLOT), st.integers(0, LAST_SLOT), st.integers(1, 10**6), st.integers(1, 10**6))
def test_ports_of_two_slots_never_meet(one: int, other: int, epoch: int, other_epoch: int) -> None:
    mine = all_ports(LockstepPorts.for_slot(one, epoch))
    assert len(mine) == 2 * MAX_NICS + 2
    assert max(mine) <= 65535
    if one != other:
        assert not mine & all_ports(LockstepPorts.for_slot(other, other_epoch))


def test_the_secondary_listens_elsewhere_in_each_of_four_epochs() -> None:
    ports = [LockstepPorts.for_slot(5, epoch) for epoch in range(1, 5)]
    assert len({one.nbd for one in ports} | {one.migration for one in ports}) == 8


def test_every_slot_that_a_pair_may_have_has_ports() -> None:
    largest = next(limit.lt for limit in Pair.model_fields["slot"].metadata if hasattr(limit, "lt")) - 1
    assert largest <= LAST_SLOT
    with pytest.raises(ValueError, match="slot"):
        LockstepPorts.for_slot(LAST_SLOT + 1, 1)
