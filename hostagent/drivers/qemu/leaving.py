"""Taking a lockstep out of the primary: the secondary is lost, or entering failed half way.

Danger: from the end of the first step on the gate is open, packets leave without a secondary's consent. The
caller has won the arbitration, or knows that the secondary was never in sync.

The yank comes first and out of band: with a silently dead peer every other command would hang QEMU's main
loop. It names only what this plan made; `query-yank` also lists the monitors' own sockets.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from hostagent.drivers.qemu import credentials, quorum
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.exports import close_exports
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpCommandError, QmpSession
from hostagent.drivers.qemu.steps import (
    MIGRATION_CAPABILITIES,
    MIGRATION_ENDED,
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


async def leave(
    qmp: QmpSession, plan: LockstepPlan, opened: Awaitable[None] | None = None
) -> dict[str, float]:
    """Remove every part of `plan` from this QEMU; returns milliseconds per step.

    Idempotent, and right in every partial stage. It does not start a guest that was stopped on purpose. `opened`
    is awaited before the gate opens: what the guest sends from then on would be lost behind a closed tap.
    """
    watch = Stopwatch()
    await _yank(qmp, plan)
    watch.lap("yank")
    await _break_migration(qmp)
    watch.lap("break_migration")
    if opened is not None:
        await opened
    await remove_objects(qmp, plan.primary_objects())
    watch.lap("remove_filters")
    await _await_migration_end(qmp)
    watch.lap("end_migration")
    await close_exports(qmp)  # of a comparison that was under way
    await _detach_disks(qmp, plan)
    watch.lap("detach_disks")
    await _cancel_mirrors(qmp, plan)
    await remove_nodes(qmp, _nodes(plan))
    await remove_chardevs(qmp, plan.primary_chardevs())
    await credentials.remove(qmp, plan)
    await set_capabilities(qmp, MIGRATION_CAPABILITIES, state=False)
    watch.lap("clean_up")
    return {**watch.laps_ms, "total": watch.total_ms}


async def sever(qmp: QmpSession, plan: LockstepPlan) -> None:
    """Break the connections of disk and memory to a secondary that is silent, and leave the gate closed.

    A guest cannot be stopped while a write waits for such a secondary: QEMU drains its disks first. Its
    lockstep is over with this; `leave` is the only way on. Packets that wait for consent go on waiting.
    """
    for instance in await qmp.execute_oob(Command.QUERY_YANK):
        if instance["type"] != "chardev" and _is_ours(instance, plan):
            with suppress(QmpCommandError):
                await qmp.execute_oob(Command.YANK, {"instances": [instance]})


def _nodes(plan: LockstepPlan) -> list[str]:
    """From the top down: a node goes when nothing above it uses it any more."""
    stems = (
        plan.pair_node, plan.wall_node, plan.replication_node, plan.watch_node, plan.nbd_node, plan.changes_node,
    )  # fmt: skip
    return [node(i) for i in range(plan.disks) for node in stems]


def _is_ours(instance: dict[str, Any], plan: LockstepPlan) -> bool:
    remote = (plan.mirror_chardev, plan.compare_chardev)
    match instance:
        case {"type": "migration"}:
            return True
        case {"type": "block-node", "node-name": name}:
            return name in _nodes(plan)
        case {"type": "chardev", "id": name}:  # not the local pairs, which still hold packets of the guest
            return name in {chardev(j) for j in range(plan.nics) for chardev in remote}
    return False


async def _yank(qmp: QmpSession, plan: LockstepPlan) -> None:
    instances = [one for one in await qmp.execute_oob(Command.QUERY_YANK) if _is_ours(one, plan)]
    for instance in instances:  # one at a time: one that is gone meanwhile would void the whole list
        try:
            await qmp.execute_oob(Command.YANK, {"instances": [instance]})
        except QmpCommandError:
            continue


async def _detach_disks(qmp: QmpSession, plan: LockstepPlan) -> None:
    """What the guest wrote meanwhile was refused, so it may have been stopped; that is done again now.

    Only when lockstep has ended: a checkpoint that meets a guest which its disk stopped ends QEMU.
    """
    for i in range(plan.disks):
        await quorum.leave_alone(qmp, plan, i)
    if await run_state(qmp) == "io-error":
        await qmp.execute(Command.CONT, deadline_s=5.0)


async def _break_migration(qmp: QmpSession) -> None:
    """Tell a migration or a lockstep that its other side is gone; it ends some time after."""
    status = await migration_status(qmp)
    if status == "colo":
        await attempt(qmp, Command.X_COLO_LOST_HEARTBEAT, {})
    elif status not in MIGRATION_ENDED:
        await attempt(qmp, Command.MIGRATE_CANCEL, {})


async def _await_migration_end(qmp: QmpSession) -> None:
    async def ended() -> bool:
        if await migration_status(qmp) in MIGRATION_ENDED:
            return True
        await _break_migration(qmp)  # it may have entered lockstep after the cancellation was sent
        return False

    await until(ended, what="leaving the migration", deadline_s=10.0)


async def _cancel_mirrors(qmp: QmpSession, plan: LockstepPlan) -> None:
    ours = {job(i) for i in range(plan.disks) for job in (plan.mirror_job, plan.changes_job)}

    async def gone() -> bool:
        jobs = await block_jobs(qmp)
        left = ours & jobs.keys()
        for job in left:
            if jobs[job].get("status") == "concluded":
                await attempt(qmp, Command.JOB_DISMISS, {"id": job})
            else:
                await attempt(qmp, Command.BLOCK_JOB_CANCEL, {"device": job, "force": True})
        return not left

    await until(gone, what="cancelling the disk copies", deadline_s=10.0)
