"""The secondary's side of lockstep: waiting for the primary, promotion, and the clean-up after it.

Danger: `promote` lets this guest speak. The caller has won the arbitration. Kept for ever after a promotion
are the rewriter (live TCP sessions need its offsets), `childs`, `parent` and the quorum; the VM is then a
primary like any other, with `insert_behind_rewriter` in its next plan.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hostagent.drivers.qemu.argv import netdev_id
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpCommandError, QmpSession
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

_CAPABILITIES = ("x-colo", "return-path")


async def prepare(qmp: QmpSession, plan: LockstepPlan) -> None:
    """Connect to the primary's channels, offer the disks and wait for the memory.

    The connections are made once and never again: a secondary that lost its primary must not take the place
    of its successor. Not idempotent; after a failure the secondary is thrown away.
    """
    for j in range(plan.nics):
        for name, port in zip(
            plan.red_chardevs(j), (plan.ports.mirror[j], plan.ports.compare[j]), strict=True
        ):
            backend = _connect(plan.primary_address, port)
            await qmp.execute(Command.CHARDEV_ADD, {"id": name, "backend": backend}, deadline_s=5.0)
        for options in filter_objects(plan, j):
            await qmp.execute(Command.OBJECT_ADD, options)
    await set_capabilities(qmp, _CAPABILITIES, state=True)
    if plan.disks:
        await _export_disks(qmp, plan)
    uri = f"tcp:{plan.secondary_address}:{plan.ports.migration}"
    await qmp.execute(Command.MIGRATE_INCOMING, {"uri": uri})


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
    await set_capabilities(qmp, _CAPABILITIES, state=False)


async def _lost_heartbeat(qmp: QmpSession) -> None:
    try:
        await qmp.execute(Command.X_COLO_LOST_HEARTBEAT)
    except QmpCommandError:
        # Refused when it is out of lockstep already: an earlier attempt got that far.
        if (await qmp.execute(Command.QUERY_COLO_STATUS))["mode"] != "none":
            raise


async def _export_disks(qmp: QmpSession, plan: LockstepPlan) -> None:
    address = {"type": "inet", "data": {"host": plan.secondary_address, "port": str(plan.ports.nbd)}}
    await qmp.execute(Command.NBD_SERVER_START, {"addr": address})
    for i in range(plan.disks):
        options = {"type": "nbd", "id": plan.export(i), "node-name": f"parent{i}", "name": plan.export(i)}
        await qmp.execute(Command.BLOCK_EXPORT_ADD, {**options, "writable": True})


def _connect(address: str, port: int) -> dict[str, Any]:
    data = {"addr": {"type": "inet", "data": {"host": address, "port": str(port)}}, "server": False}
    return {"type": "socket", "data": {**data, "nodelay": True}}


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
