"""CPU time and memory of processes, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_KIB = 1024


def cpu_seconds_in(stat: str) -> float:
    """User and system time in the text of /proc/PID/stat; the name in it may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def rss_bytes_in(text: str) -> int:
    """Resident memory in the text of smaps_rollup (`Rss:`) or status (`VmRSS:`)."""
    for line in text.splitlines():
        if line.startswith(("Rss:", "VmRSS:")):
            return int(line.split()[1]) * _KIB
    raise ValueError("neither Rss nor VmRSS in it")


def cpu_seconds(pid: int) -> float:
    """What a process has used so far, its threads included."""
    return cpu_seconds_in(Path(f"/proc/{pid}/stat").read_text())


def rss_bytes(pid: int) -> int:
    """What a process holds now."""
    for name in ("smaps_rollup", "status"):
        try:
            return rss_bytes_in(Path(f"/proc/{pid}/{name}").read_text())
        except (PermissionError, ValueError):
            continue
    raise ProcessLookupError(f"no figures of process {pid}")
