"""Desired against present forwarding entries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hostagent.drivers.net.messages import FLOOD_MAC, FdbEntry
from hostagent.drivers.net.placement import plan_flood, plan_placements

A, B, C = "52:54:00:00:00:0a", "52:54:00:00:00:0b", "52:54:00:00:00:0c"
H1, H2 = "10.9.0.1", "10.9.0.2"
MACS = st.sampled_from([A, B, C])
VTEPS = st.sampled_from([H1, H2, None])


def static(mac: str, vtep: str | None) -> FdbEntry:
    return FdbEntry(mac=mac, vtep=vtep, is_static=True)


def learned(mac: str, vtep: str) -> FdbEntry:
    return FdbEntry(mac=mac, vtep=vtep, is_static=False)


def flood(vtep: str) -> FdbEntry:
    return static(FLOOD_MAC, vtep)


def test_nothing_to_do() -> None:
    assert plan_placements({A: H1, B: None}, [static(A, H1), static(B, None), flood(H1)]).is_empty


def test_new_moved_and_stale() -> None:
    plan = plan_placements({A: H2, B: None}, [static(A, H1), static(C, H1)])
    assert plan.write == ((A, H2), (B, None))
    assert plan.forget == (C,)


def test_a_learned_entry_is_replaced_where_it_matters_and_left_alone_elsewhere() -> None:
    plan = plan_placements({A: H1}, [learned(A, H1), learned(C, H2)])
    assert plan.write == ((A, H1),)
    assert plan.forget == ()


def test_a_mac_that_came_home_is_closed_to_the_outside() -> None:
    assert plan_placements({A: None}, [static(A, H2)]).write == ((A, None),)


def test_macs_are_compared_in_lower_case() -> None:
    assert plan_placements({A.upper(): H1}, [static(A, H1)]).is_empty


def test_flood_list() -> None:
    plan = plan_flood([H1, H2, H1], [flood(H2), flood("10.9.0.9"), static(A, "10.9.0.7")])
    assert plan.add == (H1,)
    assert plan.remove == ("10.9.0.9",)


@given(
    st.dictionaries(MACS, VTEPS),
    st.dictionaries(MACS, st.tuples(VTEPS, st.booleans())),
    st.sets(st.sampled_from([H1, H2])),
)
def test_a_plan_carried_out_leads_to_the_desired_state(
    desired: dict[str, str | None], present: dict[str, tuple[str | None, bool]], reached: set[str]
) -> None:
    entries = [FdbEntry(mac, vtep, is_static) for mac, (vtep, is_static) in present.items()]
    entries += [flood(vtep) for vtep in reached]
    plan = plan_placements(desired, entries)
    table = {mac: vtep for mac, (vtep, is_static) in present.items() if is_static}
    table.update(plan.write)
    for mac in plan.forget:
        del table[mac]
    assert table == desired
    assert plan_placements(desired, [static(mac, vtep) for mac, vtep in table.items()]).is_empty
