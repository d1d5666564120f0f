"""Copying the disks of a running guest to its secondary: only what differs, while the guest goes on writing.

All ways end with every disk equal and every further write going to both sides before the guest hears of it: a
write-blocking mirror above the quorum (QEMU mirrors root nodes only). What was there before comes
- with the mirror itself, for a disk without a base: all that is not empty. The target was made empty;
- or by a backup of the image *below* the quorum, over a second connection: of what the image holds itself (`top`;
  the secondary's image has the same base of the image store under it), or of what a dirty bitmap (kept.py) has
  recorded since the secondary's older copy was the secondary.

The mirror begins first. A guest's write passes it, then the backup's filter, which puts the cluster's old content
on the target before the write reaches the image; only after that the mirror sends the new content. So neither
undoes the other's work.

Danger: the changes for a copy that is not exactly the one that the bitmap belongs to make a wrong disk. Who calls
this has compared uid, host and epoch on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hostagent.drivers.qemu import credentials, sockets
from hostagent.drivers.qemu.argv import disk_node
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpSession
from hostagent.drivers.qemu.sockets import Network
from hostagent.drivers.qemu.steps import block_jobs, block_nodes
from vdc.model.errors import UnavailableError
from vdc.security.pairs import Side

_START_DEADLINE_S = 5.0


class DiskCopyError(UnavailableError):
    """A disk copy ended before the disks were equal."""

    default_code = "disk-copy-failed"


@dataclass(frozen=True, slots=True)
class CopyFigures:
    """How far a copy is. `total_bytes` may grow while the guest writes."""

    what: str  # disk, memory
    done_bytes: int
    total_bytes: int


Figures = Callable[[CopyFigures], None]


def image_node(nodes: Mapping[str, Any], disk: int) -> str:
    """The node below the quorum that holds the guest's disk: another one on a VM that was promoted."""
    started_as_primary: Final = f"img{disk}"
    return started_as_primary if started_as_primary in nodes else f"parent{disk}"


class DiskCopy:
    """The copy of all disks of one plan."""

    def __init__(self, qmp: QmpSession, plan: LockstepPlan, network: Network) -> None:
        self._qmp = qmp
        self._plan = plan
        self._network = network
        self._backed_up = [i for i in range(plan.disks) if plan.changes_since or plan.has_base(i)]
        self._mirrors = [plan.mirror_job(i) for i in range(plan.disks)]
        self._backups = [plan.changes_job(i) for i in self._backed_up]
        self._allocated_bytes: dict[str, int] = {}  # by mirror of a whole disk
        self.done_bytes = 0  # looked at: the empty parts of a whole disk count
        self.total_bytes = 0
        self.moved_bytes = 0  # sent, at most: the empty parts do not count

    async def start(self) -> None:
        """Connect to the secondary's exports and begin."""
        nodes = await block_nodes(self._qmp)
        for i in range(self._plan.disks):
            await self._connect(self._plan.nbd_node(i), i)
            if i in self._backed_up:
                await self._mirror(i, {"sync": "none"})
                await self._connect(self._plan.changes_node(i), i)
                await self._back_up(i, image_node(nodes, i))
            else:  # the secondary's disk was made empty for this attempt
                image = nodes.get(image_node(nodes, i), {}).get("image", {})
                if "actual-size" in image:
                    self._allocated_bytes[self._plan.mirror_job(i)] = image["actual-size"]
                await self._mirror(i, {"sync": "full", "target-is-zero": True})

    async def is_done(self) -> bool:
        """Whether both sides are equal and stay so; raises DiskCopyError where a copy ended early."""
        jobs = await block_jobs(self._qmp)
        ours = [jobs.get(name) for name in (*self._mirrors, *self._backups)]
        present = [job for job in ours if job is not None]
        errors = [job["error"] for job in present if job.get("error")]
        if len(present) < len(ours) or errors:
            why = errors[0] if errors else "the secondary's disk does not answer or is full"
            raise DiskCopyError(f"the disk copy ended early: {why}")
        self.done_bytes = sum(job["offset"] for job in present)
        self.total_bytes = sum(job["len"] for job in present)
        allocated = self._allocated_bytes
        self.moved_bytes = sum(
            min(job["offset"], allocated.get(job["device"], job["offset"])) for job in present
        )
        are_equal = all(jobs[name]["ready"] for name in self._mirrors)
        return are_equal and all(jobs[name]["status"] == "concluded" for name in self._backups)

    async def end_backups(self) -> None:
        """Forget the backups that ended by themselves and their connections; the mirrors go on."""
        for i in self._backed_up:
            await self._qmp.execute(Command.JOB_DISMISS, {"id": self._plan.changes_job(i)})
            await self._qmp.execute(Command.BLOCKDEV_DEL, {"node-name": self._plan.changes_node(i)})

    async def _connect(self, node: str, disk: int) -> None:
        plan = self._plan
        with await self._network.connect(plan.secondary_address, plan.ports.nbd) as sock:
            await self._qmp.give(node, sock)
        options: dict[str, Any] = {
            "driver": "nbd",
            "node-name": node,
            "server": sockets.flat(node),
            "export": plan.export(disk),
        }
        options |= {"reconnect-delay": 0, **credentials.of_client(plan, Side.SECONDARY)}
        await self._qmp.execute(Command.BLOCKDEV_ADD, options, deadline_s=_START_DEADLINE_S)

    async def _mirror(self, disk: int, options: dict[str, Any]) -> None:
        plan = self._plan
        common = {"job-id": plan.mirror_job(disk), "device": disk_node(disk), "target": plan.nbd_node(disk)}
        await self._qmp.execute(
            Command.BLOCKDEV_MIRROR,
            {**common, "copy-mode": "write-blocking", **options, **self._speed()},
            deadline_s=_START_DEADLINE_S,
        )

    async def _back_up(self, disk: int, node: str) -> None:
        plan = self._plan
        bitmap = {"sync": "bitmap", "bitmap": plan.changes_since, "bitmap-mode": "never"}
        options = {
            "job-id": plan.changes_job(disk),
            "device": node,
            "target": plan.changes_node(disk),
            "auto-dismiss": False,  # its error would go with it
            "on-cbw-error": "break-snapshot",  # the default fails the guest's write when the secondary is lost
            **(bitmap if plan.changes_since else {"sync": "top"}),
            **self._speed(),
        }
        await self._qmp.execute(Command.BLOCKDEV_BACKUP, options, deadline_s=_START_DEADLINE_S)

    def _speed(self) -> dict[str, int]:
        return {"speed": self._plan.copy_bytes_per_s} if self._plan.copy_bytes_per_s else {}
