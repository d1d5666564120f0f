"""Entering lockstep live: disks and memory are copied while the guest runs, which then stops for a moment.

Invariant: no memory page travels in the migration's final stage. QEMU does not track writes to such pages
again before lockstep begins, so the first checkpoint would miss them and the secondary's guest would run on
stale memory. Therefore `downtime-limit` is 0 and the guest is stopped *before* the end, while the passes go
on until nothing is left; only then does the migration pause for the switch-over, and only then is it
continued.

Danger: between `stop` and the first RESUME the guest stands still. Whatever fails or is cancelled in here
ends in `_undo`, which takes everything out again and lets the guest run. That is safe without arbitration
because a secondary that never was in sync is never promoted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hostagent.drivers.qemu import credentials, leaving, quorum, sockets
from hostagent.drivers.qemu.argv import netdev_id
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpError, QmpSession
from hostagent.drivers.qemu.resync import CopyFigures, DiskCopy, DiskCopyError, Figures
from hostagent.drivers.qemu.sockets import HOST, Network
from hostagent.drivers.qemu.steps import (
    MIGRATION_CAPABILITIES,
    Stopwatch,
    block_jobs,
    poll,
    run_state,
    set_capabilities,
    until,
)
from vdc.model.errors import ConflictError, UnavailableError
from vdc.model.step import Step

_log = logging.getLogger(__name__)

_MAX_BANDWIDTH = 10**10
_STOP_DEADLINE_S = 5.0
_RESTART_S = 10.0  # for the secondary's agent, which listens for this connection
_QUICK_POLL_S = 0.002  # while the guest stands still
_SLOW_POLL_S = 0.02

Progress = Callable[[float], None]
Reach = Callable[[Step], Awaitable[None]]


async def nothing_at(_: Step) -> None:
    """For callers without a journal."""


class EntryFailedError(UnavailableError):
    """Entering lockstep failed and was undone; the guest runs on alone. Trying again is safe."""

    default_code = "lockstep-entry-failed"


@dataclass(frozen=True, slots=True)
class EntryReport:
    """What entering took. `stopped_ms` is what the guest felt: from the STOP event to RESUME."""

    stopped_ms: float
    mirror_ms: float
    copy_ms: float
    attach_ms: float
    copied_bytes: int  # of disks and memory together
    disk_bytes: int
    passes: int
    remaining_at_stop_bytes: int
    total_ms: float


async def enter(
    qmp: QmpSession,
    plan: LockstepPlan,
    *,
    progress: Progress,
    figures: Figures = lambda _: None,
    deadline_s: float,
    reach: Reach = nothing_at,
    network: Network = HOST,
) -> EntryReport:
    """Copy disks and memory to the prepared secondary and enter lockstep; `progress` gets 0.0 to 1.0.

    `deadline_s` bounds the time without progress of the disk copy, and what comes after it. `reach` is awaited at
    each named step. Raises EntryFailedError or a QmpError after undoing, ConflictError when the guest does not run.
    """
    if (state := await run_state(qmp)) != "running":
        raise ConflictError(
            f"the guest is {state}; only a running one can enter lockstep", code="not-running"
        )
    entry = _Entry(qmp, plan, progress, figures, reach, network=network)
    try:
        async with asyncio.timeout(deadline_s) as limit:
            return await entry.run(lambda: limit.reschedule(asyncio.get_running_loop().time() + deadline_s))
    except TimeoutError as error:
        await _undo_shielded(qmp, plan)
        raise EntryFailedError(f"lockstep was not reached within {deadline_s:g} s") from error
    except DiskCopyError as error:
        await _undo_shielded(qmp, plan)
        raise EntryFailedError(str(error)) from error
    except BaseException:  # cancellation too: the guest must never stay stopped
        await _undo_shielded(qmp, plan)
        raise
    finally:
        entry.forget_events()


async def _undo_shielded(qmp: QmpSession, plan: LockstepPlan) -> None:
    """Undo to the end, even if the caller is cancelled meanwhile."""
    undoing = asyncio.create_task(_undo(qmp, plan), name=f"undo-entry-{qmp.name}")
    try:
        await asyncio.shield(undoing)
    except asyncio.CancelledError:
        await undoing
        raise


async def _undo(qmp: QmpSession, plan: LockstepPlan) -> None:
    try:
        await leaving.leave(qmp, plan)
    except QmpError as error:
        _log.warning("%s: cleaning up after a failed entry: %s", qmp.name, error)
    try:
        if await run_state(qmp) != "running":
            await qmp.execute(Command.CONT, deadline_s=_STOP_DEADLINE_S)
    except QmpError as error:
        _log.error("%s: the guest may stand still after a failed entry: %s", qmp.name, error)


class _Entry:
    """One attempt: the sequence and the figures it collects."""

    def __init__(
        self,
        qmp: QmpSession,
        plan: LockstepPlan,
        progress: Progress,
        figures: Figures,
        reach: Reach,
        *,
        network: Network,
    ) -> None:
        self._qmp = qmp
        self._plan = plan
        self._progress = progress
        self._figures = figures
        self._reach = reach
        self._network = network
        self._disks = DiskCopy(qmp, plan, network)
        self._stopped_at = 0.0
        self._resumed_at = 0.0
        self._resumed = asyncio.Event()
        self.forget_events = qmp.add_listener(self._on_event)

    def _on_event(self, event: str, _data: dict[str, Any], at_s: float) -> None:
        if event == "STOP" and not self._stopped_at:
            self._stopped_at = at_s
        elif event == "RESUME" and self._stopped_at and not self._resumed_at:
            self._resumed_at = at_s
            self._resumed.set()

    async def run(self, on_progress: Callable[[], None]) -> EntryReport:
        """The sequence; `on_progress` is called whenever more of the disks has been copied."""
        watch = Stopwatch()
        await self._configure()
        await self._reach(Step.ENTER_CONFIGURED)
        await self._copy_disks(on_progress)
        await self._reach(Step.ENTER_MIRRORED)
        mirror_ms = watch.lap("mirror")
        passes, ram = await self._copy_memory()
        await self._reach(Step.ENTER_COPIED)
        copy_ms = watch.lap("copy")
        async with asyncio.timeout(self._plan.stopped_limit_s):
            await self._qmp.execute(Command.STOP, deadline_s=_STOP_DEADLINE_S)
            await self._await_status("pre-switchover")
            watch.lap("last_passes")
            await self._lift_limit()
            await self._reach(Step.ENTER_STOPPED)
            await self._attach_disks()
            await self._reach(Step.ENTER_DISKS)
            await self._attach_filters()
            await self._reach(Step.ENTER_FILTERS)
            attach_ms = watch.lap("attach")
            await self._qmp.execute(Command.MIGRATE_CONTINUE, {"state": "pre-switchover"})
            await self._await_status("colo")
            await self._resumed.wait()
        self._progress(1.0)
        return EntryReport(
            stopped_ms=round((self._resumed_at - self._stopped_at) * 1000, 1),
            mirror_ms=mirror_ms,
            copy_ms=copy_ms,
            attach_ms=attach_ms,
            copied_bytes=self._disks.moved_bytes + int(ram.get("transferred", 0)),
            disk_bytes=self._disks.moved_bytes,
            passes=passes,
            remaining_at_stop_bytes=int(ram.get("remaining", 0)),
            total_ms=watch.total_ms,
        )

    async def _configure(self) -> None:
        plan = self._plan
        remote = (plan.mirror_chardev, plan.compare_chardev)
        # A client believes to be connected before the server has looked at its certificate.
        await sockets.connected(self._qmp, [chardev(j) for j in range(plan.nics) for chardev in remote])
        await set_capabilities(self._qmp, MIGRATION_CAPABILITIES, state=True)
        parameters = {
            "downtime-limit": plan.downtime_limit_ms,
            "max-bandwidth": plan.copy_bytes_per_s or _MAX_BANDWIDTH,
            "x-checkpoint-delay": plan.checkpoint_ms,
            **credentials.of_outgoing_migration(plan),
        }
        await self._qmp.execute(Command.MIGRATE_SET_PARAMETERS, parameters)

    async def _lift_limit(self) -> None:
        """The copy's limit is not one for the checkpoints that follow over the same connection."""
        if self._plan.copy_bytes_per_s:
            await self._qmp.execute(Command.MIGRATE_SET_PARAMETERS, {"max-bandwidth": _MAX_BANDWIDTH})

    async def _copy_disks(self, on_progress: Callable[[], None]) -> None:
        disks = self._disks
        seen_bytes = -1

        async def is_done() -> bool:
            nonlocal seen_bytes
            done = await disks.is_done()
            if disks.done_bytes != seen_bytes:
                seen_bytes = disks.done_bytes
                on_progress()
                self._figures(CopyFigures("disk", disks.done_bytes, disks.total_bytes))
            self._progress(0.5 * disks.done_bytes / disks.total_bytes if disks.total_bytes else 0.5)
            return done

        await disks.start()
        await poll(is_done, interval_s=_SLOW_POLL_S)
        await disks.end_backups()

    async def _copy_memory(self) -> tuple[int, dict[str, Any]]:
        """Migrate while the guest runs, until stopping it is short; returns (passes, RAM counters)."""
        plan, port = self._plan, self._plan.ports.migration
        connecting = self._network.connect(plan.secondary_address, port, patience_s=_RESTART_S)
        with await connecting as sock:
            await self._qmp.give(plan.migration, sock)
        await self._qmp.execute(Command.MIGRATE, {"uri": f"fd:{plan.migration}"}, deadline_s=5.0)
        give_up_at = time.monotonic() + plan.live_copy_limit_s
        while True:
            answer = await self._query_migration()
            ram = answer.get("ram", {})
            passes = ram.get("dirty-sync-count", 0) - 1
            total = ram.get("total", 0)
            if total:
                self._figures(CopyFigures("memory", total - ram["remaining"], total))
                self._progress(0.5 + 0.49 * (1 - ram["remaining"] / total))
            is_little = passes >= plan.min_passes and ram.get("remaining", total) <= plan.stop_below_bytes
            # With a control's downtime limit QEMU itself may decide to stop first.
            if is_little or answer["status"] == "pre-switchover" or time.monotonic() >= give_up_at:
                return passes, ram
            await asyncio.sleep(_SLOW_POLL_S)

    async def _query_migration(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self._qmp.execute(Command.QUERY_MIGRATE)
        if answer.get("status") in ("failed", "cancelled", "completed"):
            raise EntryFailedError(
                f"the memory copy {answer['status']}: {answer.get('error-desc', 'no reason given')}"
            )
        return {"status": "none", **answer}

    async def _await_status(self, wanted: str) -> None:
        async def is_there() -> bool:
            return bool((await self._query_migration())["status"] == wanted)

        await poll(is_there, interval_s=_QUICK_POLL_S)

    async def _attach_disks(self) -> None:
        """End the copies where both disks are equal, and let the quorum write to both from here on."""
        plan = self._plan
        for i in range(plan.disks):
            await self._qmp.execute(Command.BLOCK_JOB_CANCEL, {"device": plan.mirror_job(i)})

        async def ended() -> bool:
            return not await block_jobs(self._qmp)

        await until(ended, what="ending the disk copies", deadline_s=5.0, interval_s=_QUICK_POLL_S)
        for i in range(plan.disks):
            await quorum.attach(self._qmp, plan, i)

    async def _attach_filters(self) -> None:
        for j in range(self._plan.nics):
            for options in filter_objects(self._plan, j):
                await self._qmp.execute(Command.OBJECT_ADD, options)


def filter_objects(plan: LockstepPlan, nic: int) -> list[dict[str, Any]]:
    """The objects that mirror, hold back and compare one NIC's packets, in the order of their creation."""
    cmp_server, cmp_client, out_server, out_client = plan.local_chardevs(nic)
    common: dict[str, Any] = {"netdev": netdev_id(nic), "vnet_hdr_support": True}
    if plan.insert_behind_rewriter:
        common |= {"insert": "before", "position": f"id={plan.rewriter(nic)}"}
    redirector = {"qom-type": "filter-redirector", "queue": "rx", **common}
    return [
        {"qom-type": "filter-mirror", "id": plan.mirror_filter(nic), "queue": "tx", **common}
        | {"outdev": plan.mirror_chardev(nic)},
        {**redirector, "id": plan.inbound_filter(nic), "indev": out_server},
        {**redirector, "id": plan.outbound_filter(nic), "outdev": cmp_server},
        {"qom-type": "iothread", "id": plan.iothread(nic)},
        {
            "qom-type": "colo-compare",
            "id": plan.comparer(nic),
            "primary_in": cmp_client,
            "secondary_in": plan.compare_chardev(nic),
            "outdev": out_client,
            "iothread": plan.iothread(nic),
            "vnet_hdr_support": True,
        },
    ]
