"""Progress on stderr, and only where that is a terminal: one line that is rewritten, and bars for bytes."""

from __future__ import annotations

import os
import shutil
import sys
import time
from types import TracebackType
from typing import Self

from vdc.cli.text import clean
from vdc.model.units import format_size

_MIN_INTERVAL_S = 0.1


class StatusLine:
    """A line that says what is going on; gone without a trace when the work is done."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._is_live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._last = ""
        self._last_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Replace the line."""
        if not self._is_live or text == self._last:
            return
        self._last = text
        width = shutil.get_terminal_size().columns
        print(f"\r\x1b[K{clean(text)[: width - 1]}", end="", file=self._stream, flush=True)

    def bytes(self, what: str, done: int, total: int) -> None:
        """Replace the line by how far a file is; without a total, by what is done."""
        if not total and not done:
            self.show(what)
            return
        now = time.monotonic()
        if done < total and now - self._last_at < _MIN_INTERVAL_S:
            return
        self._last_at = now
        share = f"{100 * done // total:3d} %" if total else "100 %"
        self.show(f"{what}  {share}  {format_size(done)} of {format_size(total)}")

    def clear(self) -> None:
        """Take the line away."""
        if self._is_live and self._last:
            self._last = ""
            print("\r\x1b[K", end="", file=self._stream, flush=True)


class StepLines:
    """One line per step, each staying; for work whose steps are worth reading afterwards."""

    def __init__(self) -> None:
        self._is_live = sys.stderr.isatty()

    def __call__(self, sentence: str) -> None:
        """Print a step."""
        if self._is_live:
            print(clean(sentence), file=sys.stderr, flush=True)
