"""The room that a copy of a guest's disks takes beside them, and which of their bytes it is made of."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from typing import Final

from hostagent.drivers.disk.images import QemuImg
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.resync import ROOM_BYTES
from vdc.model.errors import RefusedError
from vdc.model.units import format_size

_LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Marks:
    """Dirty bitmaps (drivers/qemu/marks.py): the one that begins, and the one whose changes alone are copied."""

    begin: str = ""
    since: str = ""
    changed_bytes: int = 0  # since `since`


NO_MARKS: Final = Marks()


async def require_room(copy: Copy, tool: QemuImg, marks: Marks) -> None:
    """For a snapshot twice, since the image store takes a copy before the first one goes. Raises RefusedError."""
    record = await copy.disks.load()
    needed = 0
    for head in record.heads if record else ():
        info, base = await tool.info(head), await tool.base_of(head)
        below = (await tool.base_info(base)).actual_bytes if base else 0
        needed += min(info.virtual_bytes, info.actual_bytes + below)
    needed = 2 * needed if not marks.begin else min(needed, marks.changed_bytes) if marks.since else needed
    free = shutil.disk_usage(copy.host.vms_dir).free - ROOM_BYTES
    if needed > free:
        raise RefusedError(
            f"there is no space for a snapshot on {copy.host.name}: it may need {format_size(needed)}, "
            f"and {format_size(max(0, free))} are free",
            code="no-space", hint="vdc snapshot rm, vdc image prune, or a larger disk",
        )  # fmt: skip


async def watch_room(copy: Copy) -> None:
    """Raises RefusedError as soon as the guests' disks have little room left."""
    while True:
        if shutil.disk_usage(copy.host.vms_dir).free < ROOM_BYTES:
            raise RefusedError(
                f"the disk of {copy.host.name} became too full for a snapshot", code="no-space",
                hint="vdc image prune, or a larger disk",
            )  # fmt: skip
        await asyncio.sleep(_LOOK_S)
