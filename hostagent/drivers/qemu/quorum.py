"""A guest's disk in lockstep: own image and the secondary's under one node, and how that node comes and goes.

    alone        disk0 (quorum, 1 of 1) -> own
    in lockstep  disk0 -> pair (quorum, 2 of 2) -> own
                                                -> replication -> watch (quorum, 1 of 2) -> nbd, nothing

Why two of two: with one of two a write that the own disk refused is done for the guest, which could read back
what was there before, and go on with that when it loses its secondary. This way the guest is stopped, and what
failed is done again. The secondary must not stop it like that: a checkpoint that meets a guest which its disk
stopped ends QEMU. So `watch` accepts everything, because one of its two children does, and tells by an event of
what the other one, the secondary's disk, refused.

Invariant: whatever I/O comes while a node is exchanged fails, and so is repeated (`werror`, `rerror`): never
lost, never answered with something else. That is what the wall is for, a node that refuses both. A quorum
shares its children with nobody, so the old node has to go before the new one can be made over the same image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hostagent.drivers.qemu.argv import disk_node, quorum_options
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpSession
from hostagent.drivers.qemu.steps import attempt, block_nodes
from vdc.model.errors import ConflictError

_CHANGE_DEADLINE_S = 5.0  # it waits for what is in flight


@dataclass(frozen=True, slots=True)
class Child:
    """One child of a quorum: the name of the tie, and the node at its end."""

    name: str
    node: str


async def attach(qmp: QmpSession, plan: LockstepPlan, disk: int) -> None:
    """Put the pair between the guest and its own disk; the guest stands still. `leave_alone` undoes any part."""
    top, replication = disk_node(disk), plan.replication_node(disk)
    size_bytes = (await block_nodes(qmp))[top]["image"]["virtual-size"]
    watch = quorum_options(plan.watch_node(disk), [plan.nbd_node(disk), _nothing(size_bytes)])
    primary = {
        "driver": "replication",
        "mode": "primary",
        "node-name": replication,
        "file": watch["node-name"],
    }
    present = await _children(qmp, top)
    if len(present) != 1:
        raise ConflictError(f"{top} has {len(present)} children", code="disk-graph")
    own = present[0]
    for options in (watch, primary):
        await qmp.execute(Command.BLOCKDEV_ADD, options)
    await _raise_wall(qmp, plan, disk)
    await _remove(qmp, top, own)
    await qmp.execute(
        Command.BLOCKDEV_ADD, quorum_options(plan.pair_node(disk), [own.node, replication], threshold=2)
    )
    await _add(qmp, top, plan.pair_node(disk))
    await _lower_wall(qmp, plan, disk)


async def leave_alone(qmp: QmpSession, plan: LockstepPlan, disk: int) -> None:
    """Give the guest its own disk back, whatever the graph is like now. Idempotent.

    The connection to the secondary has been yanked, else this hangs QEMU's main loop. The guest may run.
    """
    top, pair, wall = disk_node(disk), plan.pair_node(disk), plan.wall_node(disk)
    present = await _children(qmp, top)
    strange = [child for child in present if child.node in (pair, wall)]
    if not strange:
        return
    own = own_node(await block_nodes(qmp), disk)
    if any(child.node == pair for child in present) or all(child.node != own for child in present):
        await _raise_wall(qmp, plan, disk)
        for child in await _children(qmp, top):
            if child.node == pair:
                await _remove(qmp, top, child)
        if pair in await block_nodes(qmp):
            await qmp.execute(Command.BLOCKDEV_DEL, {"node-name": pair})
        await _add(qmp, top, own)
    await _lower_wall(qmp, plan, disk)


def _nothing(size_bytes: int) -> dict[str, Any]:
    return {"driver": "null-co", "size": size_bytes}


def own_node(nodes: dict[str, Any], disk: int) -> str:
    """The host's own image: a promoted VM's is what its secondary's layers were folded into."""
    return f"childs{disk}" if f"childs{disk}" in nodes else f"img{disk}"


async def _raise_wall(qmp: QmpSession, plan: LockstepPlan, disk: int) -> None:
    nodes, wall = await block_nodes(qmp), plan.wall_node(disk)
    if wall not in nodes:
        nothing = _nothing(nodes[disk_node(disk)]["image"]["virtual-size"])
        # Outside of lockstep this driver refuses everything.
        refusing = {"driver": "replication", "mode": "primary", "node-name": wall, "file": nothing}
        await qmp.execute(Command.BLOCKDEV_ADD, refusing)
    if all(child.node != wall for child in await _children(qmp, disk_node(disk))):
        await _add(qmp, disk_node(disk), wall)


async def _lower_wall(qmp: QmpSession, plan: LockstepPlan, disk: int) -> None:
    wall = plan.wall_node(disk)
    for child in await _children(qmp, disk_node(disk)):
        if child.node == wall:
            await _remove(qmp, disk_node(disk), child)
    await attempt(qmp, Command.BLOCKDEV_DEL, {"node-name": wall})


async def _children(qmp: QmpSession, node: str) -> tuple[Child, ...]:
    found = (await block_nodes(qmp)).get(node, {}).get("children", [])
    return tuple(Child(child["child"], child["node-name"]) for child in found)


async def _add(qmp: QmpSession, parent: str, node: str) -> None:
    await qmp.execute(
        Command.X_BLOCKDEV_CHANGE, {"parent": parent, "node": node}, deadline_s=_CHANGE_DEADLINE_S
    )


async def _remove(qmp: QmpSession, parent: str, child: Child) -> None:
    await qmp.execute(
        Command.X_BLOCKDEV_CHANGE, {"parent": parent, "child": child.name}, deadline_s=_CHANGE_DEADLINE_S
    )
