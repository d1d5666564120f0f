"""Logs of containers: lines of CRI's form, whole and in pieces, and what is none of them."""

from __future__ import annotations

import pytest

from vdc.api.models import LogText
from vdc.cli.output import Entry, Printer, last_line, parse_line

Capture = pytest.CaptureFixture[str]
T1, T2, T3 = (f"2026-11-23T14:00:0{second}.000000000Z" for second in (1, 2, 3))


def log(text: str, host: str = "h1") -> LogText:
    return LogText(name="db", host=host, text=text, form="cri")


LINES = {
    f"{T1} stdout F hello": Entry(T1, "stdout", False, "hello"),
    f"{T1} stderr P half": Entry(T1, "stderr", True, "half"),
    f"{T1} stdout F ": Entry(T1, "stdout", False, ""),
    f"{T1} stdout F a  b ": Entry(T1, "stdout", False, "a  b "),
    f"{T1} stdin F x": None,
    f"{T1} stdout X x": None,
    "dout F the rest of a line that was cut": None,
    "": None,
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_parsed_or_none(line: str) -> None:
    assert parse_line(line) == LINES[line]


def test_output_and_errors_go_where_they_went(capsys: Capture) -> None:
    Printer().write(log(f"{T1} stdout F one\n{T2} stderr F two\n{T3} stdout F three\n"), is_last=True)
    assert capsys.readouterr() == ("one\nthree\n", "two\n")


def test_one_stream_and_times_where_they_are_wanted(capsys: Capture) -> None:
    printer = Printer(timestamps=True, stream="stderr")
    printer.write(log(f"{T1} stdout F one\n{T2} stderr P two\n{T3} stderr F , still\n"))
    assert capsys.readouterr() == ("", f"{T2} two, still\n")


def test_a_line_in_pieces_is_one(capsys: Capture) -> None:
    printer = Printer()
    printer.write(log(f"{T1} stdout F wh"))
    assert capsys.readouterr().out == ""
    printer.write(log(f"ole\n{T2} stdout P lo"))
    printer.write(log(f"ng \n{T3} stdout F line\n"))
    assert capsys.readouterr().out == "whole\nlong line\n"


def test_the_last_piece_ends_its_line(capsys: Capture) -> None:
    Printer().write(log(f"{T1} stdout P begun\n"), is_last=True)
    assert capsys.readouterr().out == "begun\n"


def test_after_a_failover_only_what_is_newer_is_printed(capsys: Capture) -> None:
    printer = Printer()
    printer.write(log(f"{T1} stdout F one\n{T2} stdout F two\n{T3} stdout F th"))
    printer.resume(log(f"{T1} stdout F one\n{T2} stdout F two\n{T3} stdout F three\n", host="h2"))
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_a_serial_console_is_printed_as_it_is(capsys: Capture) -> None:
    Printer().write(LogText(name="db", host="h1", text="login: "), is_last=True)
    assert capsys.readouterr().out == "login: \n"


def test_what_was_said_last_is_found() -> None:
    assert (
        last_line(f"{T1} stdout F one\n{T2} stderr F fatal: no disk \n{T3} stdout F  \n") == "fatal: no disk"
    )
    assert last_line("") == ""
