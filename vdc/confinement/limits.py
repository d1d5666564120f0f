"""What the kernel lets a program take. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """What the kernel lets a program take that reads a file which somebody else has made (setrlimit(2))."""

    memory_bytes: int
    file_bytes: int  # of each file that it writes; 0: it writes none
    processor_s: int
    open_files: int = 256

    def prefix(self) -> tuple[str, ...]:
        """The command prefix that sets them; `prlimit` executes the rest, so the pid stays."""
        return (
            "prlimit", f"--as={self.memory_bytes}", f"--fsize={self.file_bytes}", f"--cpu={self.processor_s}",
            f"--nofile={self.open_files}", "--core=0", "--",
        )  # fmt: skip
