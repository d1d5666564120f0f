"""The benchmark's report."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.api import api_figures
from tests.bench.figures import Figure
from tests.bench.latency import figures_of
from tests.bench.report import BEGIN, END, fill, markdown, number, table
from tests.bench.resync import resync_figures

MACHINE = {
    "at": "2026-01-02 03:04 UTC",
    "cores": 2,
    "cpu": "Some CPU",
    "memory_bytes": 8 * 2**30,
    "kernel": "6.1.0",
    "qemu": "11.1.3",
    "accelerator": "tcg",
    "load_average_before": [0.5, 1.0, 2.0],
}
FIGURES = [
    Figure("a", "a gap", "ms", (110.0, 90.0, 100.0), target=200),
    Figure("b", "a ratio", "", (1.234,), target=1.1, note="one run"),
    Figure("c", "nothing", "MB", ()),
]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1234.5, "ms", "1234 ms"),
        (12.34, "ms", "12.3 ms"),
        (1.234, "", "1.23"),
        (0.0, "MB", "0.00 MB"),
        (None, "ms", "–"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float | None, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_the_table() -> None:
    assert table(FIGURES) == (
        "figure   n  median     p95    target  met\n"
        "-------  -  ------  ------  --------  ---\n"
        "a gap    3  100 ms  110 ms  ≤ 200 ms  yes\n"
        "a ratio  1    1.23       –     ≤ 1.1   no\n"
        "nothing  0       –       –         –    –\n"
    )


def test_the_page_gets_machine_table_notes_and_failures() -> None:
    document = {
        "machine": MACHINE,
        "figures": [figure.to_dict() for figure in FIGURES],
        "problems": ["gap, round 2: no answer"],
    }
    assert markdown(document) == (
        "Measured 2026-01-02 03:04 UTC on 2 cores (Some CPU), 8 GiB, Linux 6.1.0, "
        "QEMU 11.1.3 with tcg acceleration; load average before: 0.5, 1, 2.\n"
        "\n"
        "| figure | n | median | p95 | target | met |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| a gap | 3 | 100 ms | 110 ms | ≤ 200 ms | yes |\n"
        "| a ratio | 1 | 1.23 | – | ≤ 1.1 | no |\n"
        "| nothing | 0 | – | – | – | – |\n"
        "\n"
        "- a ratio: one run\n"
        "- failed: gap, round 2: no answer\n"
    )


def test_results_replace_what_was_between_the_marks_and_nothing_else() -> None:
    page = f"# Head\n{BEGIN}\nold\n{END}\ntail\n"
    assert fill(page, "new\n") == f"# Head\n{BEGIN}\nnew\n{END}\ntail\n"
    assert fill(fill(page, "new\n"), "newer\n") == fill(page, "newer\n")


@pytest.mark.parametrize("page", ["# Head\n", f"# Head\n{BEGIN}\n"])
def test_a_page_without_marks_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="page has no"):
        fill(page, "new\n")


def test_the_repositorys_page_has_the_marks() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    assert "new" in fill(page, "new\n")


def test_the_ratio_compares_product_and_bare_pair_of_the_same_round() -> None:
    def services(p50_ms: float) -> dict[str, dict[str, float]]:
        row = {"p50_ms": p50_ms, "p95_ms": 2 * p50_ms, "per_s": 1000 / p50_ms}
        return {"echo": row, "diverging": row, "durable": row}

    rounds = [
        {
            "product, protected": services(factor * 12.0),
            "product, unprotected": services(factor),
            "bare pair, protected": services(factor * 10.0),
            "bare pair, unprotected": services(factor),
        }
        for factor in (1.0, 2.0)
    ]
    found = {figure.key: figure for figure in figures_of(rounds)}
    assert found["ratio.echo.protected"].values == pytest.approx((1.2, 1.2))
    assert found["ratio.echo.protected"].is_met is False
    assert found["ratio.echo.unprotected"].target is None
    assert found["latency.durable.product.protected"].median == 18.0
    assert found["latency.durable.product.protected"].p95 == 36.0


def test_what_a_resync_copied_is_a_share_of_the_disk() -> None:
    one, other = {"disk_bytes": 2.0**20, "mirror_ms": 12.0}, {"disk_bytes": 300 * 2.0**20, "mirror_ms": 900.0}
    figures = {figure.key: figure for figure in resync_figures(one, other, one, 64 * 2**20)}
    assert figures["resync.restart"].values == (100 / 1024,)
    assert figures["resync.restart"].is_met
    assert figures["resync.written"].values == (300.0,)
    assert "64 MiB" in figures["resync.base"].note


def test_tls_is_compared_round_by_round() -> None:
    [figure] = api_figures({"unix": [300.0, 200.0], "tls": [200.0, 160.0]})
    assert figure.values == (1.5, 1.25) and figure.is_met
