"""Tables, ages, colour, and texts that a terminal would obey."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdc.cli.text import Column, Table, age, clean, harmless, has_colour, paint

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


COLUMNS: list[Column[dict[str, object]]] = [
    Column("NAME", lambda row: row["name"]),
    Column("PHASE", lambda row: row["phase"]),
    Column("MORE", lambda row: row["more"], wide=True),
]
ROWS: list[dict[str, object]] = [
    {"name": "a", "phase": "Running", "more": ("x", "y")},
    {"name": "a-long-name", "phase": None, "more": ()},
]


def test_a_table_is_aligned_and_ends_without_spaces() -> None:
    assert Table(COLUMNS).render(ROWS).splitlines() == [
        "NAME          PHASE",
        "a             Running",
        "a-long-name   -",
    ]
    assert Table(COLUMNS, wide=True).render(ROWS).splitlines()[1] == "a             Running   x,y"


def test_rows_that_come_later_keep_the_width() -> None:
    table = Table(COLUMNS)
    table.fit(ROWS)
    assert table.row({"name": "b", "phase": "x", "more": ()}) == "b             x"


def test_colour_does_not_move_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    lines = Table(COLUMNS, wide=True).render(ROWS, Terminal()).splitlines()
    assert lines[1] == "a             \x1b[32mRunning\x1b[0m   x,y"


@pytest.mark.parametrize(
    ("environment", "expected"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_only_on_a_terminal_that_wants_it(
    environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert has_colour(Terminal()) is expected
    assert not has_colour(io.StringIO())
    assert paint("x", "red", io.StringIO()) == "x"


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=0), "0s"),
        (timedelta(seconds=119), "119s"),
        (timedelta(seconds=120), "2m"),
        (timedelta(minutes=119), "119m"),
        (timedelta(hours=5), "5h"),
        (timedelta(days=3), "3d"),
        (timedelta(seconds=-5), "0s"),
    ],
)
def test_ages_are_short(passed: timedelta, text: str) -> None:
    assert age((NOW - passed).isoformat(), NOW) == text


@pytest.mark.parametrize("text", ["", "yesterday", "2030-13-01"])
def test_no_time_has_no_age(text: str) -> None:
    assert age(text, NOW) == "-"


@given(st.text())
def test_cleaned_text_is_one_line_that_no_terminal_obeys(text: str) -> None:
    result = clean(text)
    assert len(result.splitlines()) <= 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in result)


@given(st.text(alphabet=st.sampled_from("a\x1b[]0;31mHJ\x07\n\t\r")))
def test_a_log_keeps_its_lines_and_loses_its_escapes(text: str) -> None:
    result = harmless(text)
    assert not set(result) & {"\x1b", "\x07", "\r"}
    assert result.count("\n") == text.count("\n")


def test_colours_of_a_log_go() -> None:
    assert harmless("\x1b[31mred\x1b[0m\r\nnext\x1b[2J") == "red\nnext"
