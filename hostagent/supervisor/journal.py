"""What was done to one VM on this host, a JSON line per step, in the VM's folder.

It tells the next agent how far an operation came that this one did not finish, and people what happened. It
survives the agent's SIGKILL, not a power cut: nothing is fsynced here, because it lies on the way of a
promotion, and after a power cut there is no QEMU to go on with. What must survive one is in `agent.json` and
`copy.json`. Two files of at most LIMIT_BYTES each. No step depends on it: a full disk costs the line alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from vdc.model.base import Record
from vdc.model.step import Step

JOURNAL_FILE = "journal.jsonl"
LIMIT_BYTES = 64 << 10
_TAIL_BYTES = 8192


class Entry(Record):
    """One line. `step` is text: an older or newer agent may have written it."""

    at: str  # wall time, for people
    epoch: int
    step: str

    @property
    def operation(self) -> str:
        """`promote` of `promote.committed`."""
        return self.step.partition(".")[0]

    @property
    def is_open(self) -> bool:
        """Whether something of its operation was still to be done."""
        return not self.step.endswith(".done")


class Journal:
    """One per copy. The folder may come and go; without it nothing is written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL_FILE
        self._older = folder / f"{JOURNAL_FILE}.1"

    def note(self, step: Step, *, epoch: int, at: str) -> None:
        """Append a line; never raises."""
        line = Entry(at=at, epoch=epoch, step=step.value).to_json() + "\n"
        with contextlib.suppress(OSError):
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.write(handle, line.encode())
                size = os.fstat(handle).st_size
            finally:
                os.close(handle)
            if size >= LIMIT_BYTES:
                self._path.replace(self._older)

    def last(self) -> Entry | None:
        """The latest whole line; None where there is none."""
        return next(self._latest_first(), None)

    def has_reached(self, step: Step, *, since: Step) -> bool:
        """Whether `step` was reached after `since` was last; False where that is too long ago to tell."""
        for entry in self._latest_first():
            if entry.step in (step, since):
                return entry.step == step
        return False

    def _latest_first(self) -> Iterator[Entry]:
        yield from _tail_of(self._path)
        yield from _tail_of(self._older)


def _tail_of(path: Path) -> Iterator[Entry]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return
    for line in reversed(lines):
        with contextlib.suppress(ValidationError, ValueError):
            yield Entry.from_json(line)
