"""Files that survive a power cut: replaced as a whole or not at all.

Danger: fsync waits for the disk. Call these from a worker thread (`asyncio.to_thread`) where an event loop
has heartbeats to serve.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str, mode: int = 0o640) -> None:
    """Replace `path` with `text` so that a reader, even after a crash, sees the old or the new content.

    The file and its directory are fsynced before this returns. Raises OSError; then the old content stands.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    sync_directory(path.parent)


def remove_durably(path: Path) -> None:
    """Delete a file (no error where it is gone already) and fsync its directory."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
