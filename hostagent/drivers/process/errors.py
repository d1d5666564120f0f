"""Errors of the process driver: a program could not be started, or one that must go does not.

UnavailableError
└── ProcessError
    ├── ProcessStartError   the program never ran (no such file, no permission, sandbox refused)
    └── ProcessStuckError   it is still there after SIGKILL (a task in uninterruptible sleep)
"""

from __future__ import annotations

from vdc.model.errors import UnavailableError


class ProcessError(UnavailableError):
    """Base of what this package raises."""

    default_code = "process"


class ProcessStartError(ProcessError):
    """The program did not start; nothing of it is left behind."""

    default_code = "process-start-failed"

    def __init__(self, program: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"cannot start {program}: {reason}", hint=hint)
        self.program = program
        self.reason = reason


class ProcessStuckError(ProcessError):
    """SIGKILL was sent and the process has not ended: treat it as alive, whatever it was told."""

    default_code = "process-stuck"

    def __init__(self, pid: int, waited_s: float) -> None:
        super().__init__(
            f"process {pid} is still alive {waited_s:g} s after SIGKILL",
            hint="it hangs in the kernel, usually on storage; look at /proc/PID/stack",
        )
        self.pid = pid
        self.waited_s = waited_s
