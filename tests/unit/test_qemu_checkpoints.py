"""The checkpoint meter: events in, figures out."""

from __future__ import annotations

import pytest

from hostagent.drivers.qemu.checkpoints import CheckpointMeter


def fed(*pauses_ms: float, window: int = 1024) -> CheckpointMeter:
    meter = CheckpointMeter(window)
    meter.restart(0.0)
    at = 1.0
    for pause_ms in pauses_ms:
        meter.on_event("STOP", {}, at)
        meter.on_event("RESUME", {}, at + pause_ms / 1000)
        at += 1
    return meter


def test_counts_and_percentiles() -> None:
    meter = fed(*range(1, 101))
    assert meter.count == 100
    assert meter.p50_ms == pytest.approx(50)
    assert meter.p99_ms == pytest.approx(99)
    assert meter.first_at_s == pytest.approx(1.001)
    assert meter.last_at_s == pytest.approx(100.1)


def test_one_long_pause_shows_in_p99_and_not_in_p50() -> None:
    meter = fed(*[10] * 50, 900)
    assert (meter.p50_ms, meter.p99_ms) == (pytest.approx(10), pytest.approx(900))


def test_nothing_yet() -> None:
    meter = CheckpointMeter()
    assert (meter.count, meter.p50_ms, meter.p99_ms, meter.last_at_s) == (0, 0.0, 0.0, None)
    assert meter.stalled_for(5.0) == 0.0
    assert meter.quiet_for(5.0) == 0.0


def test_the_window_forgets_and_the_count_does_not() -> None:
    meter = fed(100, 1, 1, window=2)
    assert (meter.count, meter.p99_ms) == (3, pytest.approx(1))


def test_stop_without_resume_is_a_stall() -> None:
    meter = fed(10)
    meter.on_event("STOP", {}, 20.0)
    assert meter.stalled_for(22.5) == pytest.approx(2.5)
    meter.on_event("RESUME", {}, 23.0)
    assert meter.stalled_for(30.0) == 0.0


def test_no_stop_at_all_is_quiet() -> None:
    meter = fed(10)
    assert meter.stalled_for(9.0) == 0.0
    assert meter.quiet_for(9.0) == pytest.approx(7.99)


def test_quiet_counts_from_the_restart_until_the_first_checkpoint() -> None:
    meter = fed(10)
    meter.restart(50.0)
    assert meter.quiet_for(51.5) == pytest.approx(1.5)


@pytest.mark.parametrize("event", ["RESUME", "MIGRATION", "BLOCK_JOB_READY"])
def test_a_resume_without_stop_and_other_events_count_nothing(event: str) -> None:
    meter = CheckpointMeter()
    meter.on_event(event, {}, 1.0)
    assert meter.count == 0


def test_what_could_not_be_heard_is_no_stall():
    meter = CheckpointMeter()
    meter.restart(0.0)
    meter.on_event("STOP", {}, 1.0)
    meter.on_event("RESUME", {}, 1.1)
    meter.on_event("STOP", {}, 1.4)
    meter.hear_again(9.0)  # the session was lost in between
    assert meter.quiet_for(9.5) == pytest.approx(0.5)
    assert meter.stalled_for(9.5) == 0
    assert meter.last_at_s == 1.1
