"""Dirty bitmaps for backups: what a guest has written since a moment that a repository holds.

They lie on the guest's own nodes, as the jobs of snapshots do, and live in the memory of this QEMU alone: they say
everything that was written since, or they are not there. One begins in the transaction that fixes the moment, and is
never cleared. Others go only when the backup is kept: the one that it was made from, which its repository needs no
more, and the oldest where they are too many. So a backup that fails costs nothing, and several repositories go on
each from its own last one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from hostagent.drivers.qemu.argv import disk_node
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpSession
from hostagent.drivers.qemu.steps import attempt, block_nodes

GRANULARITY_BYTES: Final = 64 * 1024  # a cluster of the copy
MOST: Final = 4  # each costs every write a little
_PREFIX: Final = "backup-"


def mark_name(backup: str) -> str:
    """Of what was written since a backup."""
    return _PREFIX + backup


async def changed_bytes(qmp: QmpSession, disks: int) -> dict[str, int]:
    """The marks that are there for every disk and can be believed, each with how much was written since."""
    nodes = await block_nodes(qmp)
    each = [_marks(nodes.get(disk_node(i), {})) for i in range(disks)]
    if not each:
        return {}
    return {name: sum(found[name] for found in each) for name in set.intersection(*map(set, each))}


async def settle(qmp: QmpSession, disks: int, kept: str, replaced: str) -> None:
    """A backup is kept: forget the mark that it replaces, if any, and the oldest of too many.

    Names begin with the time.
    """
    if replaced:
        await drop(qmp, disks, replaced)
    nodes = await block_nodes(qmp)
    found = {name for i in range(disks) for name in _marks(nodes.get(disk_node(i), {}))}
    for name in sorted(found - {kept})[: max(0, len(found) - MOST)]:
        await drop(qmp, disks, name)


def why_unknown(since: str, found: Collection[str]) -> str:
    """Why the mark of the backup `since` is none of those that were found."""
    why = "the VM was restarted, or changed its host"
    if any(name < mark_name(since) for name in found):  # QEMU is the same
        why = "the host gave its mark up, as for a backup that was not kept"
    elif len(found) >= MOST:
        why = f"its mark gave way to those of {MOST} later ones, or {why}"
    return f"what has changed since {since} is not known: {why}"


async def drop(qmp: QmpSession, disks: int, name: str) -> None:
    """Forget one; harmless where there is none."""
    nodes = await block_nodes(qmp)
    for i in range(disks):
        if name in _marks(nodes.get(disk_node(i), {})):
            await attempt(qmp, Command.BLOCK_DIRTY_BITMAP_REMOVE, {"node": disk_node(i), "name": name})


def begun(disk: int, name: str) -> dict[str, Any]:
    """The action that begins one, for the transaction."""
    data = {"node": disk_node(disk), "name": name, "granularity": GRANULARITY_BYTES, "persistent": False}
    return {"type": "block-dirty-bitmap-add", "data": data}


def _marks(node: dict[str, Any]) -> dict[str, int]:
    return {
        one["name"]: one.get("count", 0)
        for one in node.get("dirty-bitmaps", [])
        if one.get("name", "").startswith(_PREFIX) and one.get("recording") and not one.get("inconsistent")
    }
