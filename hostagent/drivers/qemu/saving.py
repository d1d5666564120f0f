"""The memory and devices of a guest that stands still: into a file, and from there into another QEMU.

It is QEMU's migration, whose other side comes later. What QEMU does by the way:
- Having saved, it lets go of its disks and stands in `postmigrate`; the disks are taken back here, and `cont` works
  as ever. It refuses to save once more before the guest has run again.
- Having loaded, it stands still until it is told to go on, whatever the stream says (`-S`).

Danger: a memory belongs to the disks as they were when it was saved. Loaded over disks that were written since, it
destroys them. Whoever lets the guest go on has noted before that this memory is used up.

What is loaded is what a QEMU wrote that its guest may have taken over: it is read in the sandbox of that same guest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpError, QmpSession
from hostagent.drivers.qemu.spec import VM_DIR
from hostagent.drivers.qemu.steps import (
    MIGRATION_CAPABILITIES,
    MIGRATION_ENDED,
    attempt,
    migration_status,
    run_state,
    set_capabilities,
    until,
)
from vdc.model.errors import ConflictError, RefusedError, UnavailableError

FILE: Final = "snapmem"  # in the guest's folder
_SAVED: Final = "postmigrate"
_STILL: Final = "paused"
_AS_FAST_AS_IT_GOES: Final = 10**10
_POLL_S: Final = 0.1
_STALL_S: Final = 60.0  # without a byte
_END_DEADLINE_S: Final = 30.0

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class SavingError(UnavailableError):
    """The memory was not saved; the guest stands still as before. Trying again is safe."""

    default_code = "snapshot-failed"


async def save(
    qmp: QmpSession, *, bytes_per_s: int = 0, progress: Progress = lambda done, total: None
) -> None:
    """Write memory and devices of a paused guest to `FILE`; its disks are to be copied before it runs again.

    Raises SavingError, ConflictError (`memory-saved`), or a QmpError. Whatever it ends with, nothing is saved any more
    when it has ended, and QEMU has its disks, as far as it answers.
    """
    if await run_state(qmp) == _SAVED:
        raise ConflictError(
            "the memory was saved already since the guest was paused",
            code="memory-saved", hint="let it run for a moment: vdc start, then vdc pause",
        )  # fmt: skip
    await set_capabilities(qmp, MIGRATION_CAPABILITIES, state=False)
    settings = {"max-bandwidth": bytes_per_s or _AS_FAST_AS_IT_GOES, "tls-creds": "", "tls-hostname": ""}
    await qmp.execute(Command.MIGRATE_SET_PARAMETERS, {"downtime-limit": 300, **settings})
    try:
        await qmp.execute(Command.MIGRATE, {"uri": f"file:{VM_DIR}/{FILE}"}, deadline_s=5.0)
        if why := await _ended(qmp, progress):
            raise SavingError(f"the memory could not be saved: {why}")
        await _take_disks_back(qmp)
    except BaseException:
        with suppress(QmpError):
            await asyncio.shield(end(qmp))
        raise


async def end(qmp: QmpSession) -> None:
    """Whatever was under way or is done: nothing is saved any more, and QEMU has its disks. Idempotent.

    For a guest that stands still and is in no lockstep, whose migration this would end.
    """

    async def ended() -> bool:
        if await migration_status(qmp) in MIGRATION_ENDED:
            return True
        await attempt(qmp, Command.MIGRATE_CANCEL, {})
        return False

    await until(ended, what="ending to save the memory", deadline_s=_END_DEADLINE_S)
    if await run_state(qmp) == _SAVED:
        await _take_disks_back(qmp)


async def load(qmp: QmpSession, path: str) -> None:
    """Fill a QEMU that awaits it with the memory at `path`, as QEMU sees it; the guest stands still then.

    Raises RefusedError (`memory-unloadable`) or a QmpError; the QEMU is worth nothing then.
    """
    source = {"uri": f"file:{path}", "exit-on-error": False}
    await qmp.execute(Command.MIGRATE_INCOMING, source, deadline_s=5.0)
    why = await _ended(qmp)
    if not why and (state := await run_state(qmp)) != _STILL:
        why = f"the guest is {state} afterwards"
    if why:
        raise RefusedError(f"QEMU cannot load the saved memory: {why}", code="memory-unloadable")


async def _ended(qmp: QmpSession, progress: Progress = lambda done, total: None) -> str:
    """Wait for the end of the migration; why it failed, empty where it did not."""
    seen: dict[str, Any] = {}
    changed_at = time.monotonic()
    while True:
        answer = await qmp.execute(Command.QUERY_MIGRATE)
        status, ram = str(answer.get("status", "none")), answer.get("ram", {})
        if status == "completed":
            return ""
        if status in MIGRATION_ENDED - {"none"}:
            return str(answer.get("error-desc", f"it {status}"))
        if ram != seen:
            seen, changed_at = ram, time.monotonic()
            total = int(ram.get("total", 0))
            progress(total - int(ram.get("remaining", 0)), total)
        elif time.monotonic() - changed_at > _STALL_S:
            return f"nothing moved for {_STALL_S:g} s"
        await asyncio.sleep(_POLL_S)


async def _take_disks_back(qmp: QmpSession) -> None:
    await qmp.execute(Command.BLOCKDEV_SET_ACTIVE, {"active": True}, deadline_s=10.0)
