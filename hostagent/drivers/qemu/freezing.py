"""Freezing a secondary between two moments of a checkpoint: its memory applied, its guest not yet running.

The primary's guest stands still at that moment, because it waits for the secondary's answer. QEMU tells the
first moment by a trace event in its log alone, so the log is followed and the process stopped by SIGSTOP; the
log also says whether that came too late. There are some 5 ms between both moments.
"""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

from hostagent.drivers.process import ProcessHandle
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpSession

_APPLIED = "colo_flush_ram_cache_end"
_EVENTS = (_APPLIED, "runstate_set")
_RUNS_AGAIN = re.compile(rb"runstate_set current_run_state \d+ \(colo\) new_state \d+ \(running\)")
_POLL_S = 0.0002
_STOPPED_WITHIN_S = 1.0


async def tell_moments(qmp: QmpSession, *, enable: bool) -> None:
    """Let QEMU write the two moments to its log, or no longer."""
    for name in _EVENTS:
        await qmp.execute(Command.TRACE_EVENT_SET_STATE, {"name": name, "enable": enable})


def freeze_at_checkpoint(process: ProcessHandle, log_path: Path, deadline_s: float) -> bool:
    """Stop the process at its next checkpoint; blocking. False where it came too late or no checkpoint came.

    A process that was stopped too late goes on at once.
    """
    end = time.monotonic() + deadline_s
    with log_path.open("rb", buffering=0) as log:
        log.seek(0, 2)
        seen = b""
        while _APPLIED.encode() not in seen:
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_S)
            seen = seen[-200:] + (log.read(65536) or b"")
        process.signal(signal.SIGSTOP)
        _await_stopped(process.pid)
        seen += log.read(65536) or b""
    after = seen.partition(_APPLIED.encode())[2]
    if _RUNS_AGAIN.search(after) or _APPLIED.encode() in after:
        thaw(process)
        return False
    return True


def thaw(process: ProcessHandle) -> None:
    """Let the process go on. Harmless where it was not frozen."""
    process.signal(signal.SIGCONT)


def _await_stopped(pid: int) -> None:
    """SIGSTOP takes effect when every thread has noticed it."""
    end = time.monotonic() + _STOPPED_WITHIN_S
    while time.monotonic() < end:
        states = set()
        for path in Path(f"/proc/{pid}/task").glob("*/stat"):
            try:
                states.add(path.read_text().rpartition(")")[2].split()[0])
            except OSError:
                continue
        if states <= {"T", "t", "Z", "X"}:
            return
        time.sleep(_POLL_S)
