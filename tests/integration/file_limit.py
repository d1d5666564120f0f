"""How large a running program's files may become: a disk on which nearly every write fails."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FEW_BYTES = 200 * 1024


@contextmanager
def broken_disk(pid: int, most_bytes: int = FEW_BYTES) -> Iterator[None]:
    """It may not write beyond the first `most_bytes` of any file, until this ends or it has given way."""
    _set_limit(pid, str(most_bytes))
    try:
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            _set_limit(pid, "unlimited")


def _set_limit(pid: int, most_bytes: str) -> None:
    """As its own user: root may do it to others by a capability only that not every container has."""
    status = Path(f"/proc/{pid}/status").read_text()
    uid = next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
    own = ("setpriv", "--reuid", uid, "--regid", uid, "--clear-groups")
    limit = ("prlimit", "--pid", str(pid), f"--fsize={most_bytes}:unlimited")
    subprocess.run([*own, *limit], check=True, capture_output=True, timeout=20)
