"""The benchmark's arithmetic."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.containers import Boot, Copy, boot_figures, room_figures
from tests.bench.disk_imports import import_figures
from tests.bench.encryption import CLEAR, TLS, figures_of
from tests.bench.figures import Figure, median, percentile, ratios
from tests.bench.images import distribution_figures
from tests.bench.machine import cpu_name
from tests.bench.processes import cpu_seconds_in, rss_bytes_in
from tests.bench.trace import gaps_around


@pytest.mark.parametrize(
    ("values", "percent", "wanted"),
    [
        ([], 95, 0.0),
        ([7.0], 50, 7.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.0),
        ([float(value) for value in range(1, 101)], 95, 95.0),
        ([float(value) for value in range(1, 11)], 95, 10.0),
        ([1.0, 2.0], 0, 1.0),
    ],
)
def test_a_percentile_is_the_value_at_its_nearest_rank(
    values: list[float], percent: float, wanted: float
) -> None:
    assert percentile(values, percent) == wanted


def test_the_median_of_an_even_number_lies_between_the_two_in_the_middle() -> None:
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([]) == 0.0


def test_a_figure_without_values_has_neither_median_nor_verdict() -> None:
    empty = Figure("a", "a", "ms", (), target=5)
    assert (empty.n, empty.median, empty.p95, empty.is_met) == (0, None, None, None)


def test_the_target_is_what_the_median_must_not_exceed() -> None:
    assert Figure("a", "a", "ms", (1.0, 2.0, 90.0), target=2).is_met is True
    assert Figure("a", "a", "ms", (1.0, 2.1, 90.0), target=2).is_met is False
    assert Figure("a", "a", "ms", (1.0,)).is_met is None


def test_the_p95_of_runs_with_tails_of_their_own_is_the_median_of_the_tails() -> None:
    assert Figure("a", "a", "ms", (1.0, 2.0, 3.0), tails=(10.0, 30.0, 20.0)).p95 == 20.0
    assert Figure("a", "a", "ms", (1.0, 2.0, 3.0)).p95 == 3.0
    assert Figure("a", "a", "ms", (1.0,)).p95 is None


def test_a_figure_survives_json() -> None:
    figure = Figure("k", "name", "ms", (1.0, 2.0), tails=(3.0, 4.0), target=2, count=99, note="so")
    assert Figure.from_dict(figure.to_dict()) == figure


def test_ratios_are_taken_pair_by_pair_and_never_by_zero() -> None:
    assert ratios([2.0, 3.0, 9.0], [1.0, 0.0, 3.0]) == (2.0, 3.0)


def steady(session: int, begin: float, count: int, every: float = 0.1) -> list[tuple[int, float, float]]:
    """Requests that take 10 ms each."""
    return [(session, begin + every * k, begin + every * k + 0.01) for k in range(count)]


def test_the_slowest_request_is_that_of_the_single_session_around_the_fault() -> None:
    trace = [
        (0, 1.0, 1.9),  # before the fault
        (0, 4.9, 5.2),
        (0, 5.3, 5.35),
        (0, 8.0, 9.0),  # after it
        (1, 4.9, 7.0),  # another session
        *steady(2, 0.0, 100),
    ]
    assert gaps_around(trace, 5.0, 6.0).slowest_request_ms == pytest.approx(300)


def test_the_service_gap_is_the_longest_silence_of_all_other_sessions_together() -> None:
    trace = [
        (0, 4.95, 5.25),
        *steady(1, 0.0, 51),  # the last is answered at 5.01
        *steady(2, 5.2, 50),  # the first at 5.21
    ]
    gaps = gaps_around(trace, 5.0, 5.7)
    assert gaps.service_gap_ms == pytest.approx(200)
    assert gaps.before_ms == pytest.approx(100)


def test_a_gap_that_began_before_the_fault_and_ends_after_it_counts() -> None:
    trace = [(0, 4.0, 5.5), (1, 3.9, 4.0), (1, 4.0, 5.5), (1, 5.6, 6.6)]
    assert gaps_around(trace, 5.0, 6.0).service_gap_ms == pytest.approx(1500)


@pytest.mark.parametrize(
    "trace",
    [
        [(0, 4.9, 5.1), (1, 4.9, None), *steady(2, 0.0, 100)],  # one session never came back
        [(0, 4.9, 5.1), *steady(2, 0.0, 30)],  # silence until the end
        steady(2, 0.0, 100),  # nobody was the single session
    ],
)
def test_a_session_that_was_lost_is_no_gap_but_an_error(trace: list[tuple[int, float, float | None]]) -> None:
    with pytest.raises(ValueError, match="session"):
        gaps_around(trace, 5.0, 6.0)


def test_a_request_in_flight_at_the_very_end_is_nothing_lost() -> None:
    trace = [(0, 4.9, 5.1), *steady(1, 0.0, 100), (1, 10.0, None)]
    assert gaps_around(trace, 5.0, 6.0).slowest_request_ms == pytest.approx(200)


def test_cpu_time_is_found_whatever_the_program_is_called() -> None:
    stat = "42 (a) b (c)) S " + " ".join(["0"] * 10) + " 150 50 7 7 " + " ".join(["0"] * 30)
    assert cpu_seconds_in(stat) == pytest.approx(2.0)


def test_resident_memory_is_read_from_either_file() -> None:
    assert rss_bytes_in("55-7f [rollup]\nRss:   2048 kB\nPss:  1 kB\n") == 2048 * 1024
    assert rss_bytes_in("Name:\tx\nVmRSS:\t    512 kB\n") == 512 * 1024
    with pytest.raises(ValueError, match="Rss"):
        rss_bytes_in("Name:\tx\n")


def test_the_cpu_has_a_name() -> None:
    assert cpu_name("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n") == "Some CPU @ 2 GHz"


def test_a_thousand_pairs_that_fail_at_once_are_all_decided():
    from tests.bench.decisions import decide_all

    found = decide_all(100)
    assert 0 < found.decide_ms < found.total_ms


def test_the_cost_of_tls_is_taken_round_by_round() -> None:
    def measured(factor: float) -> dict[str, dict[str, float]]:
        return {key: {"p50_ms": 2.0 * factor} for key in ("echo", "diverging", "durable", "pause")}

    rounds = [{TLS: measured(1.0), CLEAR: measured(1.0)}, {CLEAR: measured(2.0), TLS: measured(2.4)}]
    by_key = {figure.key: figure for figure in figures_of(rounds)}
    assert by_key["tls.echo"].values == (1.0, 1.2)
    assert by_key["tls.echo"].is_met is False
    assert by_key["tls.pause.clear"].values == (2.0, 4.0)


def test_the_handshake_of_scp_does_not_count_for_the_product() -> None:
    ratio, rate = distribution_figures([1.0, 2.0, 4.0], [2.5, 2.5, 2.5], [0.5, 0.4, 0.6])
    assert ratio.values == (0.5, 1.0, 2.0) and ratio.is_met
    assert rate.values == (512.0, 256.0, 128.0)


def test_an_import_is_compared_round_by_round_and_by_its_medians() -> None:
    cpu = {"import_cpu": [0.5], "convert_cpu": [0.25]}
    (figure,) = import_figures({"vdi": {"import": [1.0, 2.0, 6.0], "convert": [1.0, 1.0, 3.0], **cpu}})
    assert figure.values == (1.0, 2.0, 2.0) and figure.is_met is False
    assert figure.note == "2.00 of the medians, 512 and 1024 MiB/s; CPU 0.50 and 0.25 s"


def test_a_boot_has_the_part_of_the_guest_beside_it() -> None:
    whole, guest = boot_figures([Boot(4.0, 1.5), Boot(5.0, 2.0)])
    assert (whole.values, guest.values) == ((4.0, 5.0), (1.5, 2.0))


def test_the_room_of_a_copy_is_shown_by_its_role() -> None:
    copies = [Copy("a", "h1", True, 2**20), Copy("a", "h2", False, 3 * 2**20), Copy("b", "h2", True, 2**21)]
    primary, secondary = room_figures(copies, 55 * 2**20)
    assert (primary.values, secondary.values) == ((1.0, 2.0), (3.0,))
    assert "55 MiB" in primary.note
