"""Room for copies of a guest's disks and memory on this host: asked for before, watched while they are made; and
which of the disks' bytes they are made of."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from hostagent.drivers.disk.images import QemuImg
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.resync import ROOM_BYTES
from vdc.model.errors import RefusedError
from vdc.model.units import format_size

T = TypeVar("T")

_LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Marks:
    """Dirty bitmaps (drivers/qemu/marks.py): the one that begins, and the one whose changes alone are copied."""

    begin: str = ""
    since: str = ""
    changed_bytes: int = 0  # since `since`


NO_MARKS: Final = Marks()


async def bytes_of_disks(copy: Copy, tool: QemuImg) -> int:
    """What copies of the disks may take, bases included."""
    record = await copy.disks.load()
    needed = 0
    for head in record.heads if record else ():
        info, base = await tool.info(head), await tool.base_of(head)
        below = (await tool.base_info(base)).actual_bytes if base else 0
        needed += min(info.virtual_bytes, info.actual_bytes + below)
    return needed


def require_room(copy: Copy, needed: int) -> None:
    """Raises RefusedError (`no-space`)."""
    free = shutil.disk_usage(copy.host.vms_dir).free - ROOM_BYTES
    if needed > free:
        raise RefusedError(
            f"there is no space for a snapshot on {copy.host.name}: it may need {format_size(needed)}, "
            f"and {format_size(max(0, free))} are free",
            code="no-space", hint="vdc snapshot rm, vdc image prune, or a larger disk",
        )  # fmt: skip


async def while_there_is_room(copy: Copy, work: Coroutine[Any, Any, T]) -> T:
    """Do it; ended by RefusedError (`no-space`) as soon as the guests' disks have little room left."""
    watching = asyncio.create_task(_watch(copy), name=f"{copy.name} snapshot room")
    working = asyncio.create_task(work, name=f"{copy.name} snapshot copy")
    try:
        await asyncio.wait({watching, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await watching
        return await working
    finally:
        for task in (watching, working):
            task.cancel()
        await asyncio.gather(watching, working, return_exceptions=True)


async def _watch(copy: Copy) -> None:
    while True:
        if shutil.disk_usage(copy.host.vms_dir).free < ROOM_BYTES:
            raise RefusedError(
                f"the disk of {copy.host.name} became too full for a snapshot", code="no-space",
                hint="vdc image prune, or a larger disk",
            )  # fmt: skip
        await asyncio.sleep(_LOOK_S)
