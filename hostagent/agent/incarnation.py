"""The number of this start of the agent: greater than that of every earlier start on this host.

Peers refuse heartbeats of a smaller one than they know of (hostagent.heartbeat.order). It is the wall clock's
milliseconds, so that a host that lost its disk goes on above what it had; and one more than the last where the
clock was set back.
"""

from __future__ import annotations

from pathlib import Path

from hostagent.drivers.process import write_atomically
from vdc.model.errors import ConflictError
from vdc.model.host import MAX_INCARNATION

INCARNATION_FILE = "incarnation"


def next_incarnation(state_dir: Path, wall_ms: int) -> int:
    """The number, on the disk (fsync) before anybody is told it.

    Raises ConflictError (`incarnation-unreadable`) where the last one cannot be read: a smaller one would not be heard.
    """
    path = state_dir / INCARNATION_FILE
    incarnation = max(_last(path) + 1, wall_ms)
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
    write_atomically(path, f"{incarnation}\n")
    return incarnation


def _last(path: Path) -> int:
    try:
        text = path.read_text(encoding="ascii").strip()
        if 0 <= (last := int(text)) < MAX_INCARNATION:
            return last
    except FileNotFoundError:
        return -1
    except (OSError, ValueError):
        pass
    raise ConflictError(
        f"{path} cannot be read, so the peers might not hear this agent", code="incarnation-unreadable",
        hint="remove it if this host's clock is right",
    )  # fmt: skip
