"""Faults of a host's disk, caused for real: a small file system that fills up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from testlab import Lab, wait_for

MIB = 1024**2


class SmallDisk:
    """A file system of its own below one host's `vms`, seen by its agent and by what that starts."""

    def __init__(self, lab: Lab, host: str) -> None:
        self.agent_pid = lab.agent(host).pid
        self.folder = lab.plan.host(host).state_dir / "vms"
        self._filler = self.seen / "filler"

    @property
    def seen(self) -> Path:
        """The folder as the agent sees it."""
        return Path(f"/proc/{self.agent_pid}/root{self.folder}")

    def fill(self) -> None:
        """Leave not one block."""
        with self._filler.open("wb") as file:

            def is_full() -> bool:
                free = os.statvfs(self.seen)
                size = file.seek(0, os.SEEK_END)
                if free.f_bavail:
                    with suppress(OSError):  # a guest took some of it meanwhile
                        os.posix_fallocate(file.fileno(), size, free.f_bavail * free.f_frsize)
                return not free.f_bavail

            wait_for(is_full, 10, "not one block is free", every_s=0.01)

    def clear(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)

    def mount(self, size_mib: int) -> None:
        self._in_agent("mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=750", "tmpfs", str(self.folder))

    def unmount(self) -> None:
        self._in_agent("umount", "-l", str(self.folder))

    def _in_agent(self, *command: str) -> None:
        subprocess.run(
            ["nsenter", "-t", str(self.agent_pid), "-m", *command],
            check=True,
            capture_output=True,
            timeout=10,
        )


@contextmanager
def small_disk(lab: Lab, host: str, size_mib: int = 160) -> Iterator[SmallDisk]:
    """For the time of the block; VMs are made in it and removed at its end."""
    disk = SmallDisk(lab, host)
    disk.mount(size_mib)
    try:
        yield disk
    finally:
        disk.clear()
        lab.remove_all_vms()
        disk.unmount()
