"""How often one person may act."""

from __future__ import annotations

from hostagent.server.pace import Pace


def test_so_many_at_once_and_then_by_and_by() -> None:
    pace = Pace(at_once=3, per_s=2.0)
    assert [pace.take("alice", 10.0) for _ in range(5)] == [True, True, True, False, False]
    assert [pace.take("alice", 11.0) for _ in range(3)] == [True, True, False]
    assert pace.take("alice", 11.6) and not pace.take("alice", 11.6)


def test_nobody_pays_for_another() -> None:
    pace = Pace(at_once=1, per_s=1.0)
    assert pace.take("alice", 0.0) and pace.take("bob", 0.0) and not pace.take("alice", 0.0)


def test_who_was_quiet_is_forgotten() -> None:
    pace = Pace(at_once=2, per_s=1.0)
    for number in range(100):
        assert pace.take(f"user{number}", number * 10.0)
    assert len(pace._buckets) == 1
