"""Whom the kernel ends first when memory runs out: a secondary, which costs protection and not a guest."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

AGENT, PRIMARY, SECONDARY = -900, 0, 500


def set_oom_score(pid: int | str, score: int) -> None:
    """Of a process; one that is gone, and a kernel that does not let us, are no errors."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(f"{score}\n")
