"""Find again what an earlier agent started.

Danger: an adopted process is not our child. Its end is seen at once, its exit status never, and it is reaped
by whoever is its parent now (the service manager).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from hostagent.drivers.process.handle import ProcessHandle, watch_identity
from hostagent.drivers.process.identity import ProcessIdentity
from hostagent.drivers.process.pidfile import (
    complete_record,
    kill_carriers,
    read_pidfile,
    remove_pidfile,
    write_pidfile,
)

_MONITOR_GRACE_S = 1.0


async def adopt(pidfile: Path) -> ProcessHandle | None:
    """Take over the process of a pidfile.

    None where it no longer runs (judged by boot, pid and start time together);
    the stale file is then removed.
    """
    record = await asyncio.to_thread(read_pidfile, pidfile)
    if record is None:
        with contextlib.suppress(FileNotFoundError):
            pidfile.unlink()  # torn or not a pidfile: it names no process
        return None
    complete = await asyncio.to_thread(complete_record, record)
    program = watch_identity(complete.identity) if complete and complete.identity else None
    if complete is None or program is None:
        if complete and complete.monitor:
            await _end_monitor(complete.monitor)
        if record.identity is None:
            await asyncio.to_thread(kill_carriers, record.token)  # of a sandbox that was never finished
        await asyncio.to_thread(remove_pidfile, pidfile, record.token)
        return None
    monitor = watch_identity(complete.monitor) if complete.monitor else None
    handle = ProcessHandle(program, monitor=monitor, pidfile=pidfile, token=record.token, tag=record.tag)
    if complete != record:
        try:
            await asyncio.to_thread(write_pidfile, pidfile, complete)
        except BaseException:
            handle.close()
            raise
    return handle


async def _end_monitor(identity: ProcessIdentity) -> None:
    """A monitor without its program ends by itself, unless it was stopped."""
    monitor = watch_identity(identity)
    if monitor is None:
        return
    try:
        async with asyncio.timeout(_MONITOR_GRACE_S):
            await monitor.ended.wait()
    except TimeoutError:
        monitor.send(signal.SIGKILL)
    finally:
        monitor.close()
