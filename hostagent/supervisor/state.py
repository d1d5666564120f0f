"""What the agent keeps on disk about its copy of one Endophyte, so that a restarted agent goes on where it was.

Invariant (I2): an epoch is on disk before anything is done to QEMU in its name. `highest_epoch` never shrinks.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from hostagent.drivers.process import in_thread
from hostagent.drivers.process.reserve import write_with_reserve
from hostagent.drivers.qemu.plan import LockstepPlan, LockstepPorts
from vdc.model.base import Record
from vdc.model.endophyte import CopyRole, CopyStage, MachineFacts
from vdc.model.errors import ConflictError, UnavailableError

STATE_FILE = "agent.json"


class PlanRecord(Record):
    """What a LockstepPlan is derived from."""

    epoch: int
    slot: int
    disks: int
    nics: int
    primary_address: str
    secondary_address: str
    has_rewriter: bool
    checkpoint_ms: int

    def plan(self) -> LockstepPlan:
        """The names, ports and addresses of this lockstep."""
        return LockstepPlan(
            epoch=self.epoch,
            disks=self.disks,
            nics=self.nics,
            primary_address=self.primary_address,
            secondary_address=self.secondary_address,
            ports=LockstepPorts.for_slot(self.slot, self.epoch),
            insert_behind_rewriter=self.has_rewriter,
            checkpoint_ms=self.checkpoint_ms,
        )


class CopyState(Record):
    """This host's copy as the agent left it."""

    name: str
    uid: str
    role: CopyRole | None = None
    stage: CopyStage = CopyStage.ABSENT
    epoch: int = 0
    highest_epoch: int = 0
    macs: tuple[str, ...] = ()
    restarts: int = 0
    listening_epoch: int = 0
    plan: PlanRecord | None = None  # of the lockstep that this copy is in, enters or leaves
    machine: MachineFacts | None = None
    older: tuple[str, ...] = ()  # primary: records of its writes in QEMU's memory (drivers/qemu/kept.py)
    resumes: str = ""  # secondary: the one of them that its disks began with


def load_state(folder: Path) -> CopyState | None:
    """The state; None where there is none.

    Raises ConflictError (`state-unreadable`) where there is one that cannot be read: a guest may be running
    that nothing is known of, so nothing may be done in that folder.
    """
    path = folder / STATE_FILE
    try:
        return CopyState.from_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ConflictError(
            f"{path} cannot be read: {error}".splitlines()[0], code="state-unreadable"
        ) from error


async def save_state(folder: Path, state: CopyState) -> None:
    """Write it durably (fsync) before returning. Raises UnavailableError (`state-unwritable`)."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        await in_thread(write_with_reserve, folder / STATE_FILE, state.to_json())
    except OSError as error:
        raise UnavailableError(
            f"{folder / STATE_FILE} cannot be written: {error.strerror or error}",
            code="state-unwritable",
            hint=f"make room below {folder.parent}",
        ) from error
