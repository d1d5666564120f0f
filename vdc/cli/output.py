"""Logs for people: text as it is, and lines as CRI's logs have them (`TIME stdout F text`)."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TextIO

from vdc.api.models import LogText
from vdc.cli.text import harmless

_LINE = re.compile(r"(\S{1,64}) (stdout|stderr) ([FP]) (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line, or a part of one (`is_part`) that the next one of its stream goes on with."""

    time: str
    stream: str
    is_part: bool
    text: str


def parse_line(line: str) -> Entry | None:
    """None for what is no such line: the beginning of a log that was cut, or a guest's own invention."""
    match = _LINE.fullmatch(line)
    return Entry(match[1], match[2], match[3] == "P", match[4]) if match else None


def last_line(text: str) -> str:
    """What the program wrote last, of a log's tail; empty for nothing."""
    entries = [entry for line in text.split("\n") if (entry := parse_line(line))]
    return next((entry.text.strip() for entry in reversed(entries) if entry.text.strip()), "")


class Printer:
    """Prints pieces of one log as they come."""

    def __init__(self, *, timestamps: bool = False, stream: str | None = None) -> None:
        self._has_timestamps = timestamps
        self._only = stream
        self._rest = ""  # of a line whose end has not come yet
        self._goes_on: dict[str, bool] = {}  # whether a stream is in the middle of a line
        self._newest = ""  # the time of what was printed last
        self._skips_to = ""

    def resume(self, log: LogText) -> None:
        """Go on with the log of another host, which ran the same guest: with what is newer than the last line."""
        self._rest, self._skips_to = "", self._newest
        if log.form == "cri":
            self.write(log)

    def write(self, log: LogText, *, is_last: bool = False) -> None:
        """Print what is whole; with `is_last` all of it, and a line's end where it lacks one."""
        if log.form == "text":
            text = _shown(log.text, sys.stdout)
            sys.stdout.write(text + ("\n" if is_last and text and not text.endswith("\n") else ""))
            sys.stdout.flush()
            return
        *lines, self._rest = (self._rest + log.text).split("\n")
        for line in lines:
            self._print(line)
        if is_last and self._rest:
            self._print(self._rest)
        if is_last and any(self._goes_on.values()):
            sys.stdout.write("\n")
        sys.stdout.flush()

    def _print(self, line: str) -> None:
        entry = parse_line(line)
        if entry is None or entry.time <= self._skips_to or self._only not in (None, entry.stream):
            return
        self._newest = max(self._newest, entry.time)
        stream = sys.stderr if entry.stream == "stderr" else sys.stdout
        goes_on = self._goes_on.get(entry.stream, False)
        stamp = f"{entry.time} " if self._has_timestamps and not goes_on else ""
        stream.write(stamp + _shown(entry.text, stream) + ("" if entry.is_part else "\n"))
        stream.flush()
        self._goes_on[entry.stream] = entry.is_part


def _shown(text: str, stream: TextIO) -> str:
    return harmless(text) if stream.isatty() else text
