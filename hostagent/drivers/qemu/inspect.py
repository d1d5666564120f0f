"""What a running QEMU is, told from itself, for an agent that restarted. Reads, changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import epoch_in
from hostagent.drivers.qemu.qmp import QmpSession
from hostagent.drivers.qemu.steps import MIGRATION_ENDED, block_jobs, block_nodes, chardevs, objects


class LiveRole(StrEnum):
    """What the process is at this moment, whatever the pair's record says."""

    ALONE = "alone"  # a primary without lockstep parts
    ENTERING = "entering"  # a primary with some parts: an entry or a departure was interrupted
    PRIMARY = "primary"  # in lockstep
    INCOMING = "incoming"  # a secondary that waits for the memory
    SECONDARY = "secondary"  # in lockstep, or left by its primary and not told what to do
    PROMOTING = "promoting"  # out of lockstep, but its filters still hold the network back
    PROMOTED = "promoted"  # a secondary once, alone now


@dataclass(frozen=True, slots=True)
class LiveState:
    """One look at a QEMU; the parts were read one after the other."""

    uuid: str
    role: LiveRole
    status: str  # running, paused, colo, inmigrate, shutdown, ...
    migration: str
    colo_mode: str  # primary, secondary, none
    epochs: frozenset[int]  # that names of dynamic parts carry
    has_rewriter: bool
    is_settled: bool  # no layers of a secondary are left
    block_nodes: frozenset[str]
    objects: frozenset[str]
    chardevs: frozenset[str]
    jobs: frozenset[str]

    @property
    def is_colo(self) -> bool:
        """Whether a lockstep is on."""
        return self.colo_mode != "none"

    @property
    def epoch(self) -> int | None:
        """The newest epoch that any part belongs to."""
        return max(self.epochs, default=None)


async def inspect(qmp: QmpSession) -> LiveState:
    """Look at a QEMU; raises a QmpError when it does not answer."""
    status = str((await qmp.execute(Command.QUERY_STATUS))["status"])
    migration = str((await qmp.execute(Command.QUERY_MIGRATE)).get("status", "none"))
    colo_mode = str((await qmp.execute(Command.QUERY_COLO_STATUS))["mode"])
    uuid = str((await qmp.execute(Command.QUERY_UUID))["UUID"])
    nodes = frozenset(await block_nodes(qmp))
    object_ids = await objects(qmp)
    chardev_ids = await chardevs(qmp)
    jobs = frozenset(await block_jobs(qmp))
    epochs = frozenset(
        epoch for name in nodes | object_ids | chardev_ids | jobs if (epoch := epoch_in(name)) is not None
    )
    return LiveState(
        uuid=uuid,
        role=_role(status, migration, colo_mode, nodes, object_ids, has_parts=bool(epochs)),
        status=status,
        migration=migration,
        colo_mode=colo_mode,
        epochs=epochs,
        has_rewriter=_has(object_ids, "rew"),
        is_settled=not _has(nodes, "active"),
        block_nodes=nodes,
        objects=object_ids,
        chardevs=chardev_ids,
        jobs=jobs,
    )


def _has(names: frozenset[str], stem: str) -> bool:
    return any(name.startswith(stem) for name in names)


def _role(
    status: str,
    migration: str,
    colo_mode: str,
    nodes: frozenset[str],
    object_ids: frozenset[str],
    *,
    has_parts: bool,
) -> LiveRole:
    if status == "inmigrate" and colo_mode != "secondary":
        return LiveRole.INCOMING
    if colo_mode == "secondary":
        return LiveRole.SECONDARY
    if colo_mode == "primary":
        return LiveRole.PRIMARY
    if _has(object_ids, "fa") or _has(object_ids, "fb"):
        return LiveRole.PROMOTING
    if _has(nodes, "active"):
        return LiveRole.PROMOTED  # its left-overs carry the old epoch until it has settled
    if has_parts or migration not in MIGRATION_ENDED:
        return LiveRole.ENTERING
    return LiveRole.PROMOTED if _has(nodes, "childs") else LiveRole.ALONE
