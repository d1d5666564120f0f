"""A point-in-time copy of all disks of a running guest, also while it is in lockstep.

One transaction of backup jobs on the guest's own nodes, above all that a lockstep exchanges: what the guest is
about to overwrite is put into the copy first. Whatever comes or goes below (a secondary, a promotion's layers)
leaves that alone. What cannot be is a mirror under such a job (QEMU mirrors root nodes only): entering lockstep
waits, or ends the snapshot first.

The copy's files are made before, empty and of the same virtual size, in the guest's folder. A write of the guest that
cannot be kept (the copy's file system is full, say) breaks the snapshot, never the write.

Danger: reading is done by QEMU, which a guest may have taken over. What comes out is a foreign file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from hostagent.drivers.qemu.argv import disk_node
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.marks import begun
from hostagent.drivers.qemu.qmp import QmpSession
from hostagent.drivers.qemu.spec import VM_DIR
from hostagent.drivers.qemu.steps import attempt, block_jobs, block_nodes, remove_nodes, until
from vdc.model.errors import ConflictError, UnavailableError

_BEGIN_DEADLINE_S: Final = 10.0  # it waits for what is in flight
_POLL_S: Final = 0.1
_END_DEADLINE_S: Final = 30.0

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class SnapshotError(UnavailableError):
    """The copy is not complete, and worth nothing. Trying again is safe."""

    default_code = "snapshot-failed"


@dataclass(frozen=True, slots=True)
class SnapshotPlan:
    """One at a time per guest, so the names need not tell one from another."""

    disks: int
    copy_bytes_per_s: int = 0  # of each disk; 0: as fast as it goes
    mark: str = ""  # a dirty bitmap that begins at the moment (marks.py)
    changed_since: str = ""  # a dirty bitmap: what was not written since is left out of the copy

    def file(self, disk: int) -> str:
        """The copy's name in the guest's folder."""
        return f"snap{disk}.qcow2"

    def job(self, disk: int) -> str:
        """The backup job."""
        return f"snapjob{disk}"

    def filter_node(self, disk: int) -> str:
        """What lies between the guest and its disk meanwhile."""
        return f"snapfilter{disk}"

    def target_node(self, disk: int) -> str:
        """The copy."""
        return f"snapcopy{disk}"


async def begin(qmp: QmpSession, plan: SnapshotPlan) -> None:
    """Fix the moment. When it returns, the copy will be of the disks as they were then.

    Raises a QmpError or ConflictError; who calls does `end` then, also when this is cancelled. Until that has
    succeeded QEMU may still begin it.
    """
    await end(qmp, plan)
    nodes = await block_nodes(qmp)
    if any(name.startswith("active") for name in nodes):
        raise ConflictError("the disks are still being put together after a promotion", code="not-settled")
    if await block_jobs(qmp):
        raise ConflictError("the disks are being copied", code="disks-busy")
    for i in range(plan.disks):
        await qmp.execute(Command.BLOCKDEV_ADD, _target(plan, i))
    marks = [begun(i, plan.mark) for i in range(plan.disks) if plan.mark]
    copies = [{"type": "blockdev-backup", "data": _backup(plan, i)} for i in range(plan.disks)]
    await qmp.execute(Command.TRANSACTION, {"actions": [*marks, *copies]}, deadline_s=_BEGIN_DEADLINE_S)


async def finish(qmp: QmpSession, plan: SnapshotPlan, progress: Progress = lambda done, total: None) -> None:
    """Wait until the copy is complete and written out; nothing of it is left in QEMU then.

    Raises SnapshotError, or a QmpError where QEMU does not answer; who calls does `end` then.
    """
    ours = [plan.job(i) for i in range(plan.disks)]
    while True:
        jobs = await block_jobs(qmp)
        present = [jobs[name] for name in ours if name in jobs]
        errors = [job["error"] for job in present if job.get("error")]
        if errors or len(present) < len(ours):
            raise SnapshotError(f"the copy of the disks broke off: {errors[0] if errors else 'it was ended'}")
        progress(sum(job["offset"] for job in present), sum(job["len"] for job in present))
        if all(job["status"] == "concluded" for job in present):
            break
        await asyncio.sleep(_POLL_S)
    await end(qmp, plan)


async def end(qmp: QmpSession, plan: SnapshotPlan) -> None:
    """Take everything of a snapshot out of QEMU, whatever its state. Idempotent; the files stay."""
    ours = {plan.job(i) for i in range(plan.disks)}

    async def gone() -> bool:
        jobs = await block_jobs(qmp)
        for name in ours & jobs.keys():
            if jobs[name].get("status") == "concluded":
                await attempt(qmp, Command.JOB_DISMISS, {"id": name})
            else:
                await attempt(qmp, Command.BLOCK_JOB_CANCEL, {"device": name, "force": True})
        return not ours & jobs.keys()

    await until(gone, what="ending the copy of the disks", deadline_s=_END_DEADLINE_S)
    await remove_nodes(qmp, [plan.target_node(i) for i in range(plan.disks)], deadline_s=_END_DEADLINE_S)


def _target(plan: SnapshotPlan, disk: int) -> dict[str, Any]:
    file = {"driver": "file", "filename": f"{VM_DIR}/{plan.file(disk)}"}
    # What the guest has zeroed takes no room.
    zeros = {"discard": "unmap", "detect-zeroes": "unmap"}
    return {"driver": "qcow2", "node-name": plan.target_node(disk), "file": file, **zeros}


def _what(plan: SnapshotPlan) -> dict[str, str]:
    if not plan.changed_since:
        return {"sync": "full"}
    return {"sync": "bitmap", "bitmap": plan.changed_since, "bitmap-mode": "never"}


def _backup(plan: SnapshotPlan, disk: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "job-id": plan.job(disk),
        "device": disk_node(disk),
        "target": plan.target_node(disk),
        **_what(plan),
        "filter-node-name": plan.filter_node(disk),
        "auto-dismiss": False,  # its error would go with it
        "on-cbw-error": "break-snapshot",
    }
    return options | ({"speed": plan.copy_bytes_per_s} if plan.copy_bytes_per_s else {})
