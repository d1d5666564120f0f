"""Comparing two copies of a disk that a guest writes to meanwhile, block by block.

Both are read over NBD from one QEMU's socket. While a write is on its way to the second copy, a read of both
may differ though nothing is wrong; so a difference counts only where it stays. What is compared is therefore
each block at some moment, not the whole disk at one; a block that had been missed would differ for good.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hostagent.drivers.disk.images import QemuImg
from hostagent.drivers.qemu.spec import VM_DIR
from vdc.model.units import MIB

REGION_BYTES = MIB  # what is looked at again where a difference was seen
_ATTEMPTS = 40
_PAUSE_S = 0.05
_MOST_REPORTED = 16
_DEADLINE_S = 3600.0


@dataclass(frozen=True, slots=True)
class DiskComparison:
    """What was found; `differences` are byte offsets of regions that stayed different (the first ones)."""

    size_bytes: int
    differences: tuple[int, ...] = ()


async def compare_exports(
    tool: QemuImg, socket: str, one: str, other: str, size_bytes: int
) -> DiskComparison:
    """Compare two exports of a QEMU that listens on `socket` in the VM's folder. Raises DiskToolError."""

    async def first_difference(offset: int, length: int) -> int | None:
        images = [_image(socket, export, offset, length) for export in (one, other)]
        found = await tool.compare(*images, deadline_s=_DEADLINE_S)
        return None if found is None else offset + found

    differences: list[int] = []
    position = 0
    while position < size_bytes and len(differences) < _MOST_REPORTED:
        found = await first_difference(position, size_bytes - position)
        if found is None:
            break
        begin = found // REGION_BYTES * REGION_BYTES
        end = min(begin + REGION_BYTES, size_bytes)
        for _ in range(_ATTEMPTS):
            if await first_difference(begin, end - begin) is None:
                break
            await asyncio.sleep(_PAUSE_S)
        else:
            differences.append(begin)
        position = end
    return DiskComparison(size_bytes, tuple(differences))


def _image(socket: str, export: str, offset: int, length: int) -> str:
    server = f"file.server.type=unix,file.server.path={VM_DIR}/{socket}"
    return f"driver=raw,offset={offset},size={length},file.driver=nbd,{server},file.export={export}"
