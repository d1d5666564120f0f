"""Copies of one VM's disks that somebody reads over the API, to keep them elsewhere.

A copy is made as a snapshot is, and called off when whoever asked for it goes away. Its files are open here and
nowhere else to be found: they are gone with this process, when they are given up, when nobody has read them for ten
minutes, and when the guests' disks have little room. The image store does not get them, from which every host would
fetch them.

What the guest writes after the moment is marked in QEMU (drivers/qemu/marks.py). The mark stays where the copy got
into a repository, in place of the one before; the next backup for that repository is then of the changes alone.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from hostagent.drivers.qemu import marks
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.copyroom import Marks
from hostagent.supervisor.resync import ROOM_BYTES
from hostagent.supervisor.snapshotting import Snapshots, how
from vdc.model.endophyte import CopyRole
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, VdcError
from vdc.model.image import Image
from vdc.model.snapshot import Snapshot

UNREAD_S: Final = 600.0
STUCK_S: Final = 120.0  # that a reader may take no byte: it may have to write to somewhere slow first
_RECENT_S: Final = STUCK_S + 30.0  # who has read so lately goes on
_LOOK_S: Final = 5.0
_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")
_DIGITS = re.compile(r"[^0-9]")


@dataclass(slots=True)
class HeldCopy:
    """One copy. `since`: it holds what was written after that backup alone."""

    id: str
    snapshot: Snapshot
    image: Image
    files: list[BinaryIO]
    since: str = ""
    full_because: str = ""
    used_at_s: float = 0.0
    readers: int = 0
    watching: asyncio.Task[None] | None = field(default=None, repr=False)


class Backups:
    """One per supervisor; holds one copy at a time."""

    def __init__(self, copy: Copy, snapshots: Snapshots) -> None:
        self._copy = copy
        self._snapshots = snapshots
        self._held: HeldCopy | None = None
        self._making: asyncio.Task[HeldCopy] | None = None

    async def begin(self, *, quiesce: bool, since: str) -> HeldCopy:
        """Make a copy; ConflictError (`backup-busy`) while another is read, and as `Snapshots.take`.

        Nothing is left of it where this is cancelled: nobody else is told its id.
        """
        if since and not _ID.fullmatch(since):
            raise InvalidError(f"{since[:80]!r} is not the id of a backup", code="backup-id-invalid")
        is_making = self._making is not None and not self._making.done()
        if is_making or (self._held is not None and self._is_used(self._held)):
            raise ConflictError(
                f"a backup of {self._copy.name} is being taken", code="backup-busy", hint="try again later"
            )
        making = self._make(quiesce=quiesce, since=since)
        self._making = task = asyncio.create_task(making, name=f"{self._copy.name} backup")
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(task)  # calling it off takes longer than whoever goes away can wait
        except asyncio.CancelledError:
            if task.cancelled():
                raise ConflictError(
                    f"{self._copy.host.name} stopped making the copy", code="overtaken", hint="begin again"
                ) from None
            if not task.cancel() and task.exception() is None:
                task.result().used_at_s = -math.inf  # complete by now, and nobody will read it
            raise

    def find(self, backup: str) -> HeldCopy:
        """Raises NotFoundError (`backup-gone`)."""
        if self._held is None or self._held.id != backup:
            raise NotFoundError(
                f"{self._copy.host.name} no longer has the copy for backup {backup[:40]}", code="backup-gone",
                hint="begin again; what is in the repository is not written twice",
            )  # fmt: skip
        return self._held

    @contextmanager
    def reading(self, backup: str, disk: int) -> Iterator[BinaryIO]:
        """A disk's file, which stays open meanwhile. Raises as `find`, and NotFoundError (`no-disk`)."""
        held = self.find(backup)
        if not 0 <= disk < len(held.files):
            raise NotFoundError(f"{self._copy.name} has no disk {disk}", code="no-disk")
        held.readers += 1
        try:
            yield held.files[disk]
        finally:
            held.readers -= 1
            held.used_at_s = self._now_s()
            if held is not self._held:
                _close_unread(held)

    async def end(self, backup: str, *, is_kept: bool) -> None:
        """Give a copy up. `is_kept`: it is in a repository."""
        held = self.find(backup)
        held.used_at_s = self._now_s()  # no other begins while its marks are put in order
        try:
            if is_kept:
                await self._settle(held)
        finally:
            await self._give_up(held, is_kept=is_kept)
        if is_kept:
            what = f"changes since {held.since}" if held.since else "whole disks"
            await self._copy.host.tell(
                self._copy.name, "backup-taken", f"backup {held.id} taken ({how(held.snapshot)}, {what})",
                epoch=held.snapshot.epoch,
            )  # fmt: skip

    async def close(self) -> None:
        """The agent stops, or the VM is gone. Marks stay: they are of use to the next agent."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait({self._making})
        held, self._held = self._held, None
        if held is not None:
            if held.watching is not None:
                held.watching.cancel()
            _close_unread(held)

    # ---- making one

    async def _make(self, *, quiesce: bool, since: str) -> HeldCopy:
        copy = self._copy
        if self._held is not None:
            await self._give_up(self._held, is_kept=False)
        new = self._new_id()
        known, changed_bytes, why = await self._known(since)
        wanted = Marks(marks.mark_name(new), marks.mark_name(known) if known else "", changed_bytes)
        try:
            snapshot, files = await self._snapshots.copy_out(f"backup-{new}", quiesce=quiesce, marks=wanted)
        except BaseException:
            await self._forget(new)
            raise
        entry = copy.host.mirror.images.get(self._digest())
        if entry is None:
            for file in files:
                file.close()
            await self._forget(new)
            raise ConflictError(f"the image of {copy.name} is not known here", code="not-settled")
        held = HeldCopy(new, snapshot, entry.value.image, files, known, why, self._now_s())
        held.watching = asyncio.create_task(self._watch(held), name=f"{copy.name} backup {new}")
        self._held = held
        return held

    async def _known(self, since: str) -> tuple[str, int, str]:
        """The backup whose changes are known, how many bytes they are, and else why they are not."""
        if not since:
            return "", 0, "it is the first one in this repository"
        if not self._qmp_disks:
            return "", 0, "the VM does not run, so QEMU keeps no record of what has changed"
        found = await marks.changed_bytes(self._copy.session(), self._qmp_disks)
        if marks.mark_name(since) not in found:
            return "", 0, marks.why_unknown(since, found)
        return since, found[marks.mark_name(since)], ""

    @property
    def _qmp_disks(self) -> int:
        """How many disks a running primary has; 0 where nothing runs here."""
        copy = self._copy
        facts = copy.state.machine
        runs = copy.state.role is CopyRole.PRIMARY and copy.is_alive and copy.qmp is not None
        return len(facts.disk_sizes_bytes) if facts and runs else 0

    def _digest(self) -> str:
        endophyte = self._copy.host.mirror.endophyte(self._copy.name)
        return endophyte.image_digest if endophyte is not None else ""

    def _new_id(self) -> str:
        digits = _DIGITS.sub("", self._copy.host.clock.wall())
        return f"{digits[:8]}-{digits[8:14]}-{secrets.token_hex(2)}"

    # ---- giving it up

    async def _give_up(self, held: HeldCopy, *, is_kept: bool) -> None:
        if self._held is held:
            self._held = None
        if held.watching is not None and held.watching is not asyncio.current_task():
            held.watching.cancel()
        _close_unread(held)
        if not is_kept:
            await self._forget(held.id)

    async def _forget(self, backup: str) -> None:
        with suppress(VdcError):
            if self._qmp_disks:
                await marks.drop(self._copy.session(), self._qmp_disks, marks.mark_name(backup))

    async def _settle(self, held: HeldCopy) -> None:
        """Its repository needs the mark that it was made from no more."""
        replaced = marks.mark_name(held.since) if held.since else ""
        with suppress(VdcError):
            if self._qmp_disks:
                await marks.settle(self._copy.session(), self._qmp_disks, marks.mark_name(held.id), replaced)

    async def _watch(self, held: HeldCopy) -> None:
        """Until nobody reads it any more, or its room is needed."""
        while True:
            await asyncio.sleep(_LOOK_S)
            is_left = not held.readers and self._now_s() - held.used_at_s > UNREAD_S
            is_full = shutil.disk_usage(self._copy.host.vms_dir).free < ROOM_BYTES // 2
            if is_left or is_full:
                await self._give_up(held, is_kept=False)
                return

    def _is_used(self, held: HeldCopy) -> bool:
        return bool(held.readers) or self._now_s() - held.used_at_s < _RECENT_S

    def _now_s(self) -> float:
        return self._copy.host.clock.boottime_s()


def _close_unread(held: HeldCopy) -> None:
    """A thread may be reading by the number of a file, which is another file's as soon as this one is closed."""
    if not held.readers:
        for file in held.files:
            file.close()
