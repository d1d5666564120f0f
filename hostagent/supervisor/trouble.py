"""What a copy's disks refuse: heard from QEMU's events, judged by where the copy stands.

In lockstep a host whose disk fails gives way, whichever it is: a primary to its secondary, a secondary by
being no secondary any more. Alone there is nobody to give way to: QEMU has stopped the guest before it heard
of the error, and `retry` lets it try again until the disk takes what it refused.

Invariant: a secondary whose disk has refused anything since lockstep began is never promoted. QEMU reports that
in three ways, and each of them counts: an event of the quorum below the disk, an event of the guest's device,
and, where a checkpoint could not be completed because of it, a line in its log before it leaves lockstep.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostagent.drivers.qemu import primary
from hostagent.drivers.qemu.plan import epoch_in
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.drivers.qemu.steps import run_state
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.event import Severity
from vdc.protection.status import STOPPED_BY_DISK as STOPPED

if TYPE_CHECKING:
    from hostagent.supervisor.copy import Copy

RETRY_S = 2.0
STEADY_S = 2.0  # that a guest has to run on before its disk counts as well again
LOG_TAIL_BYTES = 8192
_NOT_A_DISK = ("pair", "watch", "wall", "repl")  # nodes that only pass on what another one said
_TOGETHER = (CopyStage.READY, CopyStage.ENTERING, CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP)
_IN_THE_LOG = (
    b"Failed to empty",
    b"I/O error occurred",
    b"Backup job was cancelled",
    b"Cannot do checkpoint",
)


class DiskTrouble:
    """One per copy. What happened in one lockstep says nothing about the next one: `forget`."""

    def __init__(self) -> None:
        self.here = ""  # what this host's disk said, in lockstep
        self.there = ""  # what the secondary's disk said
        self.is_stopped = False  # alone: the guest stands still because of it
        self.is_full = False
        self._reason = ""
        self._is_told = False
        self._running_since_s: float | None = None

    @property
    def is_torn(self) -> bool:
        """Whether either disk has refused something in this lockstep: the two may differ, whatever is recorded."""
        return bool(self.here or self.there)

    def forget(self) -> None:
        """A new lockstep, or a new process."""
        self.here = self.there = ""
        self.is_stopped = False

    def on_event(
        self, event: str, data: dict[str, Any], role: CopyRole | None, stage: CopyStage, epoch: int
    ) -> bool:
        """Take in an event of QEMU; whether it is one that a decision may depend on.

        `epoch` is that of the present lockstep: QEMU holds events back for up to a second, and one of an
        earlier secondary's disk says nothing about this one's.
        """
        is_together = stage in _TOGETHER
        if event == "QUORUM_REPORT_BAD" and is_together:
            node, error = str(data.get("node-name", "")), str(data.get("error", "an error"))
            if role is CopyRole.PRIMARY and node.startswith("nbd"):
                self.there = self.there or (error if epoch_in(node) == epoch else "")
            elif not node.startswith(_NOT_A_DISK):
                self.here = self.here or error
            return self.is_torn
        if event == "BLOCK_IO_ERROR" and data.get("action") == "stop":
            self.is_full, self._reason = bool(data.get("nospace")), str(data.get("reason", ""))
            if is_together:
                self.here = self.here or self._reason or "an error"
            return True
        return False

    def read_log(self, path: Path) -> None:
        """QEMU left lockstep: was it because of the disks here?"""
        with suppress(OSError), path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            text = file.read()
            self.here = self.here or next((sign.decode() for sign in _IN_THE_LOG if sign in text), "")

    async def look(self, copy: Copy) -> None:
        """Ask QEMU whether the guest of a copy that runs alone stands still, and tell what is new."""
        if (
            copy.state.stage is not CopyStage.RUNNING
            or copy.qmp is None
            or not (self._is_told or _may_be(copy))
        ):
            return
        with suppress(QmpError):
            self.is_stopped = await run_state(copy.session()) == STOPPED
            if self.is_stopped:
                copy.qemu_word = STOPPED
                self._running_since_s = None
        if self.is_stopped and not self._is_told:
            self._is_told = True
            await self._tell_stop(copy)
        elif self._is_told and not self.is_stopped:
            await self._tell_recovery(copy)

    async def _tell_stop(self, copy: Copy) -> None:
        host, name, epoch = copy.host, copy.name, copy.state.epoch
        if self.is_full:
            sentence = f"paused: there is no room for its disk on {host.name}; it goes on when there is"
            await host.tell(name, "disk-full", sentence, epoch=epoch, severity=Severity.WARNING)
        else:
            sentence = f"paused: its disk on {host.name} says {self._reason or 'nothing'}; it is tried again"
            await host.tell(name, "disk-error", sentence, epoch=epoch, severity=Severity.WARNING)

    async def _tell_recovery(self, copy: Copy) -> None:
        now = copy.host.clock.boottime_s()
        if self._running_since_s is None:
            self._running_since_s = now
        elif now - self._running_since_s >= STEADY_S:
            self._is_told = False
            sentence = f"the disk on {copy.host.name} takes what is written again"
            await copy.host.tell(copy.name, "disk-recovered", sentence, epoch=copy.state.epoch)

    async def retry(self, copy: Copy) -> None:
        """After a while let the guest do again what its disk refused. Harmless where it refuses once more."""
        await asyncio.sleep(RETRY_S)
        await primary.resume(copy.session())
        self.is_stopped = False  # until QEMU says that it stopped again


def _may_be(copy: Copy) -> bool:
    return copy.is_alive and copy.qemu_word in ("paused", STOPPED)
