"""Refusals in the audit log: one tells, many are counted, and nobody fills the log with them."""

from __future__ import annotations

from audit_support import asked

from hostagent.server.audit_refusals import FIRST_S, LONGEST_S, MOST_ADDRESSES, Refusals
from vdc.model.audit import AuditEntry


def refused(address: str = "10.0.0.9", **fields: object) -> AuditEntry:
    return asked(address=address, **{"result": "role-missing", **fields})


def test_the_first_is_told_at_once_and_the_rest_together() -> None:
    refusals = Refusals()
    assert refusals.note(refused(), 0.0) == refused()
    assert [refusals.note(refused(), second) for second in (1.0, 2.0, 3.0)] == [None, None, None]
    assert refusals.due(FIRST_S - 0.1) == []
    assert refusals.due(FIRST_S) == [refused(count=3)]
    assert refusals.due(FIRST_S + 1) == []


def test_what_they_do_not_have_in_common_is_several() -> None:
    refusals = Refusals()
    refusals.note(refused(), 0.0)
    refusals.note(refused(what="a", who="nobody"), 1.0)
    refusals.note(refused(what="b", who="nobody"), 1.0)
    refusals.note(refused(what="a", who="nobody"), 1.0)
    assert refusals.due(FIRST_S) == [refused(what="several", who="nobody", count=3)]


def test_who_goes_on_is_told_of_less_and_less_often() -> None:
    refusals = Refusals()
    told = [entry for entry in (refusals.note(refused(), 0.0),) if entry]
    for second in range(1, 3601):
        refusals.note(refused(), float(second))
        told += refusals.due(float(second))
    assert len(told) == 11 and sum(entry.count for entry in told) > 3600 - LONGEST_S


def test_who_was_quiet_for_long_begins_anew() -> None:
    refusals = Refusals()
    refusals.note(refused(), 0.0)
    assert refusals.due(LONGEST_S - 1) == [] and refusals.note(refused(), LONGEST_S - 1) is None
    assert refusals.due(LONGEST_S - 1) == [refused()]
    assert refusals.due(2 * LONGEST_S) == []
    assert refusals.note(refused(), 2 * LONGEST_S) == refused()


def test_from_however_many_addresses_the_log_gets_some_tens_of_entries_in_ten_minutes() -> None:
    refusals = Refusals()
    told: list[AuditEntry] = []
    for number in range(20_000):
        second = number * 600 / 20_000
        at_once = refusals.note(refused(f"10.{number >> 8 & 255}.{number & 255}.{number >> 16}"), second)
        told += [at_once] if at_once else []
        told += refusals.due(second)
    told += refusals.rest()
    assert len(told) < MOST_ADDRESSES + 10
    assert sum(entry.count for entry in told) == 20_000
    assert {entry.address for entry in told if entry.count > 1} == {"others"}


def test_at_the_end_the_rest_is_told() -> None:
    refusals = Refusals()
    refusals.note(refused(), 0.0)
    refusals.note(refused(), 1.0)
    assert refusals.rest() == [refused()] and refusals.rest() == []
