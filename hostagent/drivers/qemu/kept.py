"""What was written since a secondary was given up in order: dirty bitmaps in the primary's QEMU.

`begin` is called while the pair is still in lockstep. What reaches the guest's image from then on is recorded;
what reached it before has been acknowledged by the secondary's disk too, or is still under way there. A
checkpoint that begins and completes afterwards waits for that: both guests stop, and all their I/O ends. Then
the secondary's disk plus the recorded clusters is the primary's disk, whatever breaks next.

The bitmaps live in the memory of QEMU, which stores them in the image when it ends by `quit` and marks them as in
use while it runs. One that is there and consistent is therefore complete, also after the guest was powered off and
on; after a QEMU that was killed it is inconsistent, and the next copy is a full one.
"""

from __future__ import annotations

import re

from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpSession
from hostagent.drivers.qemu.resync import image_node
from hostagent.drivers.qemu.steps import attempt, block_nodes
from vdc.model.pair import MAX_OLDER_COPIES, OlderCopy

# Each record costs every write a little, and 1/524,288 of the disk's size in memory.
_NAME = re.compile(r"since-e([0-9]+)-(.+)")


def bitmap_name(host: str, epoch: int) -> str:
    """Of what was written since `host` was the secondary under `epoch`."""
    return OlderCopy(host=host, epoch=epoch).record_name


async def begin(qmp: QmpSession, disks: int, name: str) -> None:
    """Record every write from now on; gives up the oldest record where there would be too many. Idempotent."""
    nodes = await block_nodes(qmp)
    each = [_bitmaps(nodes[image_node(nodes, i)]) for i in range(disks)]
    others = sorted(set().union(*each) - {name}, key=_epoch)
    for other in others[: max(0, len(others) - MAX_OLDER_COPIES + 1)]:
        await drop(qmp, disks, other)
    for i in range(disks):
        node = image_node(nodes, i)
        if name not in _bitmaps(nodes[node]):
            bitmap = {"node": node, "name": name, "persistent": True}
            await qmp.execute(Command.BLOCK_DIRTY_BITMAP_ADD, bitmap)


async def kept(qmp: QmpSession, disks: int) -> tuple[str, ...]:
    """Names of the records that cover every disk."""
    if not disks:
        return ()
    nodes = await block_nodes(qmp)
    each = [_bitmaps(nodes[image_node(nodes, i)]) for i in range(disks)]
    return tuple(sorted(set.intersection(*each), key=_epoch))


async def forget_broken(qmp: QmpSession, disks: int) -> None:
    """Remove from the images what a QEMU left that was killed."""
    nodes = await block_nodes(qmp)
    whole = await kept(qmp, disks)
    for i in range(disks):
        for bitmap in nodes[image_node(nodes, i)].get("dirty-bitmaps", []):
            if _NAME.fullmatch(bitmap.get("name", "")) and bitmap["name"] not in whole:
                await drop(qmp, disks, bitmap["name"])


async def drop(qmp: QmpSession, disks: int, name: str) -> None:
    """Forget a record; harmless where there is none."""
    nodes = await block_nodes(qmp)
    for i in range(disks):
        node = image_node(nodes, i)
        await attempt(qmp, Command.BLOCK_DIRTY_BITMAP_REMOVE, {"node": node, "name": name})


def _bitmaps(node: dict[str, object]) -> set[str]:
    found = node.get("dirty-bitmaps", [])
    assert isinstance(found, list)
    return {
        one["name"]
        for one in found
        if _NAME.fullmatch(one.get("name", "")) and one.get("recording") and not one.get("inconsistent")
    }


def _epoch(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0
