"""The report: a table for people, JSON with every raw value, and the table's place in the docs. Pure text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.bench.figures import Figure

BEGIN = "<!-- results -->"
END = "<!-- end of results -->"
_HEAD = ("figure", "n", "median", "p95", "target", "met")


def number(value: float | None, unit: str) -> str:
    """Three digits that count, and the unit; a dash for nothing."""
    if value is None:
        return "–"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:.{digits}f}{' ' if unit else ''}{unit}"


def cells(figure: Figure) -> tuple[str, ...]:
    """One line of the table."""
    met = {True: "yes", False: "no", None: "–"}[figure.is_met]
    target = "–" if figure.target is None else f"≤ {figure.target:g}{' ' if figure.unit else ''}{figure.unit}"
    return (
        figure.name,
        str(figure.n),
        number(figure.median, figure.unit),
        number(figure.p95, figure.unit),
        target,
        met,
    )


def table(figures: Sequence[Figure]) -> str:
    """For a terminal."""
    rows = [_HEAD, *(cells(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = []
    for row in rows:
        first = row[0].ljust(widths[0])
        rest = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([first, *rest]).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines) + "\n"


def markdown(document: dict[str, Any]) -> str:
    """For the docs: the machine, the table, what went wrong."""
    figures = [Figure.from_dict(found) for found in document["figures"]]
    rows = [cells(figure) for figure in figures]
    lines = [describe(document["machine"]), ""]
    lines.append("| " + " | ".join(_HEAD) + " |")
    lines.append("|" + "|".join([" --- "] + [" ---: "] * (len(_HEAD) - 1)) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"- {figure.name}: {figure.note}" for figure in figures if figure.note]
    problems = [f"- failed: {problem}" for problem in document["problems"]]
    if notes or problems:
        lines += ["", *notes, *problems]
    return "\n".join(lines) + "\n"


def describe(machine: dict[str, Any]) -> str:
    """The machine in one sentence."""
    load = ", ".join(f"{value:g}" for value in machine["load_average_before"])
    return (
        f"Measured {machine['at']} on {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}, "
        f"QEMU {machine['qemu'] or 'unknown'} with {machine['accelerator'] or 'no'} acceleration; "
        f"load average before: {load}."
    )


def fill(text: str, results: str) -> str:
    """The page with `results` between its marks; raises ValueError where the marks are not there."""
    before, begin, rest = text.partition(BEGIN)
    if not begin:
        raise ValueError(f"the page has no {BEGIN}")
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page has no {END}")
    return f"{before}{BEGIN}\n{results}{END}{after}"
