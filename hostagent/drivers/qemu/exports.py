"""Read-only views of both copies of a protected VM's disks, offered by its primary on a unix socket.

The primary reaches the secondary's disk by the very connection that its writes go through, so nothing is
needed on the secondary's side. Exports keep the nodes in use: `leave` closes them before it removes nodes.
"""

from __future__ import annotations

from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpSession
from hostagent.drivers.qemu.quorum import own_node
from hostagent.drivers.qemu.spec import VM_DIR
from hostagent.drivers.qemu.steps import attempt, block_nodes

SOCKET = "compare.sock"


def names(disk: int) -> tuple[str, str]:
    """The exports of a disk: the primary's own copy and the secondary's."""
    return f"own{disk}", f"other{disk}"


async def open_exports(qmp: QmpSession, plan: LockstepPlan) -> None:
    """Offer both copies of every disk, read-only. Idempotent; raises a QmpError."""
    await attempt(qmp, Command.NBD_SERVER_STOP, {})  # of an earlier attempt, with or without exports
    address = {"type": "unix", "data": {"path": f"{VM_DIR}/{SOCKET}"}}
    await qmp.execute(Command.NBD_SERVER_START, {"addr": address})
    nodes = await block_nodes(qmp)
    for i in range(plan.disks):
        for export, node in zip(names(i), (own_node(nodes, i), plan.nbd_node(i)), strict=True):
            options = {"type": "nbd", "id": export, "node-name": node, "name": export, "writable": False}
            await qmp.execute(Command.BLOCK_EXPORT_ADD, options)


async def close_exports(qmp: QmpSession) -> None:
    """Take the exports and their server away. Harmless where there are none."""
    if await qmp.execute(Command.QUERY_BLOCK_EXPORTS):
        await qmp.execute(Command.NBD_SERVER_STOP)
