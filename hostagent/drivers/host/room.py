"""What is left on this host: room on its disks, memory for one more process. Asks the kernel, keeps nothing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vdc.model.errors import RefusedError
from vdc.model.units import GIB, KIB, MIB, format_size

LEAST_FREE_BYTES = 2 * GIB
DISK_BYTES = 64 * MIB  # without this much no disk is begun: it would stop its guest at once


@dataclass(frozen=True, slots=True)
class Room:
    """A file system."""

    folder: Path
    free_bytes: int
    total_bytes: int

    @property
    def is_low(self) -> bool:
        """Whether somebody should make room: 2 GiB or a tenth of it is left, whichever is less."""
        return self.free_bytes < min(LEAST_FREE_BYTES, self.total_bytes // 10)

    @property
    def sentence(self) -> str:
        """For people."""
        return (
            f"{format_size(self.free_bytes)} of {format_size(self.total_bytes)} are free below {self.folder}"
        )


def room(folder: Path) -> Room:
    """Of the file system that a folder is on. Raises OSError where it cannot be asked."""
    usage = shutil.disk_usage(folder)
    return Room(folder, usage.free, usage.total)


def require_disk(folder: Path, what: str) -> None:
    """RefusedError (`no-space`) where a disk cannot sensibly be begun."""
    free = room(folder).free_bytes
    if free < DISK_BYTES:
        raise RefusedError(
            f"there is no space for {what}: {format_size(free)} are free, {format_size(DISK_BYTES)} are needed",
            code="no-space",
            hint=f"make room below {folder}",
        )


def available_memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """What the kernel could give to a new process without swapping."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * KIB
    raise RefusedError("the kernel does not say how much memory is available", code="no-memory")


def require_memory(need_bytes: int, what: str, meminfo: Path = Path("/proc/meminfo")) -> None:
    """RefusedError (`no-memory`) with both figures where less is available than may be needed."""
    available = available_memory_bytes(meminfo)
    if available < need_bytes:
        raise RefusedError(
            f"memory is short for {what}: {format_size(available)} are available, "
            f"{format_size(need_bytes)} are needed",
            code="no-memory",
            hint="free memory on that host, or lower what the agent may give (`memory` of its configuration)",
        )
