"""What one guest and its QEMU write: bounded, since a guest decides how much it writes to its console, and read.

Both writers append, so a log that is cut to nothing goes on from its new end. What is written between the copy
of the end and the cut is lost, some lines at most.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from hostagent.drivers.process.foreign import open_foreign, size_of_foreign
from hostagent.drivers.qemu.spec import OUTPUT_LOG, SERIAL_LOG
from hostagent.supervisor.confinement import QEMU_LOG

LIMIT_BYTES = 8 << 20
KEPT_BYTES = 4 << 20
_READ_BYTES = 1 << 20
_LINE_BYTES = 4 << 10
_PANIC_SIGNS = (b"Kernel panic", b"BUG: ", b"Oops: ", b"general protection fault")


class ConsoleWatch:
    """Reads what the guest's kernel has written to the console since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = 0

    def skip(self) -> None:
        """What is there now is of an earlier process."""
        self._seen = self._size()

    def sees_panic(self) -> bool:
        """Whether a kernel crash was written since the last call."""
        self._seen = min(self._seen, self._size())  # it was cut meanwhile
        try:
            with open_foreign(self._path) as file:
                file.seek(self._seen)
                text = file.read(_READ_BYTES)
        except OSError:
            return False
        self._seen += len(text)
        return any(sign in text for sign in _PANIC_SIGNS)

    def _size(self) -> int:
        with suppress(OSError):
            return size_of_foreign(self._path) or 0
        return 0


def last_line(path: Path) -> str:
    """What a process said last; empty where it said nothing."""
    with suppress(OSError), path.open("rb") as file:  # of a long log the end alone
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LINE_BYTES))
        lines = file.read(_LINE_BYTES).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
    return ""


def bound_log(
    path: Path, kept_in: Path, *, limit_bytes: int = LIMIT_BYTES, kept_bytes: int = KEPT_BYTES
) -> bool:
    """Keep the end of a log that has grown too long in `kept_in` (`.1`) and begin it anew; whether that was done.

    The log may lie in a folder that a guest's user owns, `kept_in` must not.
    """
    try:
        with open_foreign(path, is_writable=True) as file:
            size = file.seek(0, os.SEEK_END)
            if size <= limit_bytes:
                return False
            file.seek(size - kept_bytes)
            end = file.read(kept_bytes)
            with suppress(OSError):  # no room for the old end: the more reason to cut
                (kept_in / f"{path.name}.1").write_bytes(end)
            file.truncate(0)
    except OSError:
        return False
    return True


def bound_logs(folder: Path, guest: Path) -> None:
    """Cut what a QEMU and its guest have written too much of. Blocks."""
    for log in (guest / SERIAL_LOG, guest / OUTPUT_LOG, folder / QEMU_LOG):
        bound_log(log, folder)


def earlier_log(name: str, kept_in: Path, most_bytes: int) -> bytes:
    """The end of what was cut from a log; nothing where nothing was."""
    with suppress(OSError), (kept_in / f"{name}.1").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - most_bytes))
        return file.read()
    return b""
