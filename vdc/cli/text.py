"""Small text work: colour only where it is wanted, control characters never, ages, plain tables."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TextIO, TypeVar

import click

R = TypeVar("R")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_OBEYED = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[^\[\n]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_GAP = "   "

COLOURS = {
    "Running": "green", "Ready": "green", "lockstep": "green", "ok": "green", "up": "green", "alive": "green",
    "syncing": "yellow", "Starting": "yellow", "Pending": "yellow", "warning": "yellow", "Warning": "yellow",
    "Paused": "yellow", "paused": "yellow", "slow": "yellow", "partitioned": "yellow",
    "degraded": "red", "Failed": "red", "Isolated": "red", "Unknown": "red", "NotReady": "red",
    "error": "red", "off": "red", "broken": "red",
}  # fmt: skip


def has_colour(stream: TextIO) -> bool:
    """Whether to colour what goes there: a terminal, and neither NO_COLOR nor a dumb one."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def paint(text: str, colour: str | None, stream: TextIO) -> str:
    """The text in a colour, where the stream takes one."""
    return click.style(text, fg=colour) if colour and has_colour(stream) else text


def clean(text: str) -> str:
    """The text on one line, without anything that a terminal would obey."""
    return _CONTROL.sub(" ", text).strip()


def harmless(text: str) -> str:
    """A log's text for a terminal: lines and tabs stay, whatever else a terminal would obey goes."""
    return _OBEYED.sub("", text.replace("\r\n", "\n"))


def age(since: str, now: datetime) -> str:
    """`42s`, `5m`, `3h`, `2d` since an RFC 3339 time; `-` where there is none."""
    try:
        begin = datetime.fromisoformat(since)
    except ValueError:
        return "-"
    if begin.tzinfo is None:
        begin = begin.replace(tzinfo=UTC)
    seconds = max(0, int((now - begin).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size or (size == 86_400 and seconds >= size):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """One column of a table; `wide` ones appear with `-o wide` alone."""

    title: str
    value: Callable[[R], Any]
    wide: bool = False


class Table(Generic[R]):
    """Rows aligned like kubectl's; widths only grow, so that rows which come later stay aligned."""

    def __init__(self, columns: Sequence[Column[R]], *, wide: bool = False) -> None:
        self.columns = [column for column in columns if wide or not column.wide]
        self._widths = [len(column.title) for column in self.columns]

    def header(self) -> str:
        """The titles; to be asked for after the first rows are known (`fit`)."""
        return self._line([column.title for column in self.columns])

    def fit(self, records: Sequence[R]) -> None:
        """Make the columns wide enough for these records."""
        for record in records:
            cells = self._cells(record)
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)]

    def row(self, record: R, stream: TextIO | None = None) -> str:
        """One line."""
        cells = self._cells(record)
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)]
        return self._line(cells, stream)

    def state(self, record: R) -> tuple[str, ...]:
        """What is shown of a record, without its ages: rows differ where this does."""
        cells = zip(self.columns, self._cells(record), strict=True)
        return tuple(cell for column, cell in cells if column.title not in ("AGE", "UNPROTECTED"))

    def render(self, records: Sequence[R], stream: TextIO | None = None) -> str:
        """Header and all rows, without a line feed at the end."""
        self.fit(records)
        return "\n".join([self.header(), *(self.row(record, stream) for record in records)])

    def _cells(self, record: R) -> list[str]:
        return [_cell(column.value(record)) for column in self.columns]

    def _line(self, cells: list[str], stream: TextIO | None = None) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)]
        padded[-1] = cells[-1]
        if stream is not None and has_colour(stream):
            padded = [
                text.replace(cell, paint(cell, COLOURS.get(cell), stream), 1) if cell in COLOURS else text
                for text, cell in zip(padded, cells, strict=True)
            ]
        return _GAP.join(padded).rstrip()


def _cell(value: Any) -> str:
    if isinstance(value, tuple | list):
        value = ",".join(str(item) for item in value)
    return clean("" if value is None else str(value)) or "-"
