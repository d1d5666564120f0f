"""A few blocks per folder that are given up when its disk is full, so that what must be remembered still is.

A host whose disk is full may be the one that has to go on, and may not act on an epoch that it could not
write down. Danger: whoever else writes to that disk may be faster than the second attempt.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from hostagent.drivers.process.files import write_atomically

RESERVE_FILE = ".reserve"
RESERVE_BYTES = 64 << 10
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def write_with_reserve(path: Path, text: str) -> None:
    """`write_atomically`, which gives the folder's reserve up before it fails for want of room. Raises OSError."""
    reserve = path.parent / RESERVE_FILE
    try:
        write_atomically(path, text)
    except OSError as error:
        if error.errno not in NO_ROOM or not reserve.exists():
            raise
        reserve.unlink()
        write_atomically(path, text)
        return
    if not reserve.exists():
        _make(reserve)


def _make(reserve: Path) -> None:
    """Allocated, not only as long; where there is no room for it now, the next write tries again."""
    with contextlib.suppress(OSError):
        handle = os.open(reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(handle, 0, RESERVE_BYTES)
        except OSError:
            reserve.unlink()
        finally:
            os.close(handle)
