"""The secondary's side of lockstep: waiting for the primary, promotion, and the clean-up after it.

Danger: `promote` lets this guest speak. The caller has won the arbitration. Kept for ever after a promotion
are the rewriter (live TCP sessions need its offsets), `childs`, `parent` and the quorum; the VM is then a
primary like any other, with `insert_behind_rewriter` in its next plan.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Any, Final

from hostagent.drivers.qemu import credentials, sockets
from hostagent.drivers.qemu.argv import netdev_id
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.incoming import Incoming
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpCommandError, QmpSession
from hostagent.drivers.qemu.sockets import HOST, Network
from hostagent.drivers.qemu.steps import (
    Stopwatch,
    attempt,
    block_jobs,
    migration_status,
    remove_chardevs,
    remove_nodes,
    remove_objects,
    run_state,
    set_capabilities,
    until,
)
from vdc.security.pairs import Side

_CAPABILITIES = ("x-colo", "return-path")
_NEVER_MS: Final = 2**31 - 1


async def prepare(qmp: QmpSession, plan: LockstepPlan, *, network: Network = HOST) -> Incoming:
    """Connect to the primary's channels, offer the disks and wait for the memory; who calls closes what it returns.

    The connections are made once and never again: a secondary that lost its primary must not take the place
    of its successor. Not idempotent; after a failure the secondary is thrown away. Raises a QmpError, and
    UnavailableError where the primary or a port cannot be had.
    """
    await credentials.add(qmp, plan)
    for j in range(plan.nics):
        for name, port in zip(
            plan.red_chardevs(j), (plan.ports.mirror[j], plan.ports.compare[j]), strict=True
        ):
            await _connect(qmp, plan, name, port, network)
        for options in filter_objects(plan, j):
            await qmp.execute(Command.OBJECT_ADD, options)
    await set_capabilities(qmp, _CAPABILITIES, state=True)
    if plan.disks:
        await _export_disks(qmp, plan, network)
    await qmp.execute(Command.MIGRATE_SET_PARAMETERS, credentials.of_incoming_migration(plan))
    await sockets.connected(qmp, [name for j in range(plan.nics) for name in plan.red_chardevs(j)])
    return Incoming(qmp, plan, network)


async def promote(qmp: QmpSession, plan: LockstepPlan, *, keep_listening: bool = False) -> dict[str, float]:
    """Let the secondary's guest take over; returns milliseconds per step. Idempotent.

    First the checkpoint that may be under way is given up, then the primary's way to the disks is closed: what it
    writes after the end of lockstep would go into this guest's disks. `keep_listening` leaves the filter that
    receives from the primary's mirror (a planned switch).
    """
    watch = Stopwatch()
    holding = [plan.hold_filter(j) for j in range(plan.nics)]
    outgoing = [plan.secondary_filters(j)[1] for j in range(plan.nics)]
    incoming = [plan.secondary_filters(j)[0] for j in range(plan.nics)]
    await cut(qmp)
    if not keep_listening:
        await _shut_output(qmp, plan)
    if plan.disks:
        await attempt(qmp, Command.NBD_SERVER_STOP, {})  # refused when it has been stopped
    await _lost_heartbeat(qmp)
    watch.lap("lost_heartbeat")
    await remove_objects(qmp, [*holding, *outgoing, *([] if keep_listening else incoming)])
    watch.lap("remove_filters")
    return {**watch.laps_ms, "total": watch.total_ms}


async def cut(qmp: QmpSession) -> None:
    """End the channel of the checkpoints, out of band: none can set this copy back any more. Idempotent.

    A primary that hangs, or whose host lost power, in the middle of a checkpoint leaves QEMU's main loop waiting
    for the rest of the memory: nothing but an out-of-band command is heard then.
    """
    with suppress(QmpCommandError):
        await qmp.execute_oob(Command.YANK, {"instances": [{"type": "migration"}]})


async def _shut_output(qmp: QmpSession, plan: LockstepPlan) -> None:
    """End the ways to the primary's comparer, out of band.

    A guest that sends much when its primary's host goes silent fills the socket, and QEMU's main loop waits there
    until the kernel gives the connection up.
    """
    for j in range(plan.nics):
        _, to_primary = plan.red_chardevs(j)
        with suppress(QmpCommandError):
            await qmp.execute_oob(Command.YANK, {"instances": [{"type": "chardev", "id": to_primary}]})


async def announce(qmp: QmpSession) -> None:
    """Send gratuitous ARP for every NIC so that switches learn where the guest is."""
    await qmp.execute(Command.ANNOUNCE_SELF, {"initial": 50, "max": 550, "rounds": 10, "step": 50})


async def refresh_code(qmp: QmpSession) -> None:
    """Make an emulated (TCG) guest forget the machine code that was translated for it; not needed with KVM.

    A checkpoint writes the secondary's memory behind the emulator's back, and QEMU 10.2 to 11.1 does not drop
    translations of pages that got other code that way: the guest would go on executing what used to be there.
    The one thing that drops them is the run state `restore-vm`, which loading a snapshot enters first; one
    that does not exist is asked for. The guest stands still for some milliseconds. Only after `promote`: a
    checkpoint that meets this state ends QEMU. Should the agent die in here, the guest is left in
    `restore-vm` and `cont` frees it; the job that it leaves is dismissed by the next call.
    """
    if await run_state(qmp) != "running":
        return
    job = "refresh-code"
    arguments = {"job-id": job, "tag": "vdc-no-such-snapshot", "vmstate": "none", "devices": []}

    async def concluded() -> bool:
        jobs = await qmp.execute(Command.QUERY_JOBS)
        return not any(entry["id"] == job and entry["status"] != "concluded" for entry in jobs)

    if any(entry["id"] == job for entry in await qmp.execute(Command.QUERY_JOBS)):
        await until(concluded, what="dropping translated code before", deadline_s=5.0)
        await qmp.execute(Command.JOB_DISMISS, {"id": job})
    await qmp.execute(Command.SNAPSHOT_LOAD, arguments)
    try:
        await until(concluded, what="dropping translated code", deadline_s=5.0, interval_s=0.001)
    finally:
        await qmp.execute(Command.CONT)
    await qmp.execute(Command.JOB_DISMISS, {"id": job})


async def settle(qmp: QmpSession, plan: LockstepPlan, *, deadline_s: float = 60.0) -> None:
    """Take out what the promoted VM no longer needs. Idempotent, not urgent.

    When it returns, what was in the active and hidden files is in the parent, which is then the disk; both
    files can be deleted. Raises QmpTimeoutError while that is still being written.
    """

    async def is_out() -> bool:
        return await migration_status(qmp) != "colo" and await run_state(qmp) != "colo"

    await until(is_out, what="leaving lockstep", deadline_s=10.0)
    await remove_chardevs(qmp, [name for j in range(plan.nics) for name in plan.red_chardevs(j)])
    if await qmp.execute(Command.QUERY_BLOCK_EXPORTS):
        await qmp.execute(Command.NBD_SERVER_STOP)

    async def no_jobs() -> bool:
        return not await block_jobs(qmp)

    await until(no_jobs, what="writing back the disks", deadline_s=deadline_s)
    # QEMU's write-back is an internal job, which is not listed: the nodes are in use until it is done.
    nodes = [f"{stem}{i}" for i in range(plan.disks) for stem in ("active", "hidden")]
    await remove_nodes(qmp, nodes, deadline_s=deadline_s)
    await credentials.remove(qmp, plan)
    await set_capabilities(qmp, _CAPABILITIES, state=False)


async def _lost_heartbeat(qmp: QmpSession) -> None:
    try:
        await qmp.execute(Command.X_COLO_LOST_HEARTBEAT)
    except QmpCommandError:
        # Refused when it is out of lockstep already: an earlier attempt got that far.
        if (await qmp.execute(Command.QUERY_COLO_STATUS))["mode"] != "none":
            raise


async def _export_disks(qmp: QmpSession, plan: LockstepPlan, network: Network) -> None:
    name = plan.nbd_server
    await sockets.give_listening(qmp, name, network, plan.secondary_address, plan.ports.nbd)
    server = {"addr": sockets.nested(name), **credentials.of_server(plan)}
    await qmp.execute(Command.NBD_SERVER_START, server)
    for i in range(plan.disks):
        options = {"type": "nbd", "id": plan.export(i), "node-name": f"parent{i}", "name": plan.export(i)}
        await qmp.execute(Command.BLOCK_EXPORT_ADD, {**options, "writable": True})


async def _connect(qmp: QmpSession, plan: LockstepPlan, chardev: str, port: int, network: Network) -> None:
    """A chardev that was connected by the agent.

    QEMU refuses TLS on a client that is made of a descriptor, because it would not know whom to expect. So the
    client is made with the name that the certificate has to carry, which leads nowhere (QEMU has no network, and
    would try again after weeks), and gets the connection as if somebody had called it.

    Its end is a reset: a primary's QEMU that reads nothing yet from the connection does not notice one that is only
    shut, and would never take that of the next secondary (chardev/char-socket.c watches for HUP).
    """
    with await network.connect(plan.primary_address, port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        whom = {"type": "inet", "data": {"host": Side.PRIMARY, "port": str(port)}}
        data = {"addr": whom, "server": False, "nodelay": True, "reconnect-ms": _NEVER_MS}
        backend = {"type": "socket", "data": {**data, **credentials.of_client(plan)}}
        await qmp.execute(Command.CHARDEV_ADD, {"id": chardev, "backend": backend})

        async def is_taken() -> bool:  # refused until the attempt that leads nowhere has ended
            await qmp.give(chardev, sock)
            return await attempt(qmp, Command.ADD_CLIENT, {"protocol": chardev, "fdname": chardev})

        await until(is_taken, what=f"handing over the connection of {chardev}", deadline_s=5.0)


def filter_objects(plan: LockstepPlan, nic: int) -> list[dict[str, Any]]:
    """The secondary's filters for one NIC, in the order of their creation."""
    feed, take = plan.secondary_filters(nic)
    from_primary, to_primary = plan.red_chardevs(nic)
    common = {"netdev": netdev_id(nic), "vnet_hdr_support": True}
    return [
        {"qom-type": "filter-redirector", "id": feed, "queue": "tx", "indev": from_primary, **common},
        {"qom-type": "filter-redirector", "id": take, "queue": "rx", "outdev": to_primary, **common},
        {"qom-type": "filter-rewriter", "id": plan.rewriter(nic), "queue": "all", **common},
    ]
