"""Snapshots of one VM, taken by its primary's host beside whatever else the supervisor does.

Nothing of the pair waits for a snapshot: losing the secondary leaves it alone, and what cannot go on beside it
(the copy to a new secondary) ends it first. A snapshot that does not come to its end leaves nothing: its record says
that it is being made, and the agent of the primary's host, whichever that is by then, removes every such record that
is not its own work, with what belongs to it (`Snapshots.look`). It stays until QEMU has let go of everything: one
that does not answer may still begin what it was told to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, BinaryIO, Final, TypeVar

from hostagent.drivers.disk.images import QemuImg
from hostagent.drivers.process.foreign import open_foreign
from hostagent.drivers.qemu import snapshots
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.drivers.qemu.snapshots import SnapshotPlan
from hostagent.supervisor import remembering, storing
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.copyroom import NO_MARKS, Marks, bytes_of_disks, require_room, while_there_is_room
from hostagent.supervisor.quiescence import frozen, thaw
from vdc.control.snapshots import SnapshotRecords
from vdc.model.endophyte import CopyRole, CopyStage, Endophyte
from vdc.model.errors import ConflictError, NotFoundError, RefusedError, VdcError
from vdc.model.event import Severity
from vdc.model.snapshot import Snapshot, SnapshotDisk, SnapshotMemory, SnapshotState
from vdc.model.step import Step
from vdc.model.units import format_size

T = TypeVar("T")

_RUNS: Final = (CopyStage.RUNNING, CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP, CopyStage.PAUSED)
_BYTES_PER_MBIT: Final = 125_000
_LET_GO_S: Final = 35.0
_GIVE_WAY_S: Final = 0.1  # longer than fixing the moment takes where nothing hangs
_SWEEP_AGAIN_S: Final = 10.0  # QEMU reads nothing more, also out of band, once eight commands wait


class Snapshots:
    """One per supervisor. `wake` is called when one has ended."""

    def __init__(self, copy: Copy, wake: Callable[[], None], deciding: asyncio.Lock) -> None:
        self._copy = copy
        self._wake = wake
        self._deciding = deciding  # held while a job of the supervisor changes the copy
        self._has_lock = False
        self._task: asyncio.Task[Any] | None = None
        self._mine: Snapshot | None = None
        self._removing: asyncio.Task[None] | None = None  # what is left of another one, under the same names
        self._sweep_at_s = 0.0
        self.progress: tuple[int, int] = (0, 0)

    # ---- what the API asks for

    async def take(self, name: str, *, quiesce: bool, memory: bool = False) -> Snapshot:
        """Take one; it is ready when this returns. Whoever asked may go away, it goes on. `memory`: of a paused VM.

        Raises ConflictError, RefusedError (`no-space`), SnapshotError, UnavailableError; then nothing is left of it.
        """
        task = self._begun(lambda: self._take(name, quiesce=quiesce, memory=memory))
        return await self._result(task)

    async def copy_out(self, name: str, *, quiesce: bool, marks: Marks) -> tuple[Snapshot, list[BinaryIO]]:
        """The same, for somebody who reads the copies: open files, which are gone when they are closed.

        Its record is there until the copies are complete. Raises as `take`. Nobody else has the files: when this is
        cancelled it is called off, and nothing is left of it when this ends.
        """
        task = self._begun(lambda: self._copy_out(name, quiesce=quiesce, marks=marks))
        try:
            return await self._result(task)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is None:
                _close(task.result()[1])
            raise

    def _begun(self, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        if self._task is not None and not self._task.done():
            raise ConflictError(
                f"a snapshot of {self._copy.name} is being taken",
                code="snapshot-busy",
                hint="try again later",
            )
        self._task = task = asyncio.create_task(self._in_turn(work), name=f"{self._copy.name} snapshot")
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _result(self, task: asyncio.Task[T]) -> T:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise ConflictError(
                    f"the snapshot was called off: {self._copy.name} had to be changed",
                    code="overtaken", hint="try again when it is in lockstep",
                ) from None  # fmt: skip
            raise

    async def _in_turn(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """When nothing of another one is being removed any more; none begins to be while this task is there."""
        if self._removing is not None:
            await asyncio.wait({self._removing})
        return await work()

    async def call_off(self) -> None:
        """End the one under way, for something that cannot be done beside it. Raises a QmpError."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_LET_GO_S)
        if self._copy.qmp is not None:
            await snapshots.end(self._copy.session(), self._plan())  # an earlier agent's too

    async def give_way(self) -> None:
        """Let go of the lock at once, for what cannot wait.

        Fixing the moment may wait in QEMU for a secondary that is dead, and be freed only by what this is asked for.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_GIVE_WAY_S), self._deciding:
                return
        if self._has_lock and self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """The agent stops: the next one removes what is left."""
        tasks = [task for task in (self._task, self._removing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def look(self) -> None:
        """Remove what was left by a snapshot that nobody takes any more. Never waits."""
        copy, pair = self._copy, self._copy.host.mirror.pair(self._copy.name)
        if any(task is not None and not task.done() for task in (self._task, self._removing)):
            return
        if pair is None or pair.primary != copy.host.name or copy.state.role is CopyRole.SECONDARY:
            return
        if copy.needs_session or copy.host.clock.boottime_s() < self._sweep_at_s:
            return
        left = [one for one in self._pending() if one != self._mine]
        if left:
            self._removing = asyncio.create_task(self._sweep(left), name=f"{copy.name} snapshots left")

    def _pending(self) -> list[Snapshot]:
        found = self._copy.host.mirror.snapshots.items()
        prefix = f"{self._copy.name}/"
        return [
            one.value
            for key, one in found
            if key.startswith(prefix) and one.value.state is SnapshotState.MAKING
        ]

    async def _sweep(self, left: list[Snapshot]) -> None:
        copy = self._copy
        self._sweep_at_s = copy.host.clock.boottime_s() + _SWEEP_AGAIN_S
        for one in left:
            with suppress(VdcError):
                if not await self._records.has(one):
                    continue
                if one.is_quiesced and copy.is_alive:
                    await thaw(copy)  # it was frozen when its host was lost
                await self._clean_up()
                await self._records.forget(one)
                await copy.host.tell(
                    copy.name, "snapshot-lost", f"snapshot {one.name} was not finished by {one.host}; it is removed",
                    epoch=copy.state.epoch, severity=Severity.WARNING,
                )  # fmt: skip

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """While no job of the supervisor changes the copy; but see `give_way`."""
        async with self._deciding:
            self._has_lock = True
            try:
                yield
            finally:
                self._has_lock = False

    # ---- taking one

    @property
    def _records(self) -> SnapshotRecords:
        return SnapshotRecords(self._copy.host.store, self._copy.host.clock)

    @property
    def _tool(self) -> QemuImg:
        copy = self._copy
        return QemuImg(copy.host.config.runtime, copy.guest, copy.host.image_dir)

    def _plan(self, marks: Marks = NO_MARKS) -> SnapshotPlan:
        facts = self._copy.state.machine
        disks = len(facts.disk_sizes_bytes) if facts else 0
        speed = self._copy.host.config.resync_mbit * _BYTES_PER_MBIT
        return SnapshotPlan(disks, speed, mark=marks.begin, changed_since=marks.since)

    async def _take(self, name: str, *, quiesce: bool, memory: bool) -> Snapshot:
        copy, host = self._copy, self._copy.host
        async with self._made(name, quiesce=quiesce, memory=memory) as (endophyte, record):
            disks, kept = await while_there_is_room(copy, storing.store(copy, endophyte, record))
            await copy.reach(Step.SNAPSHOT_STORED)
            ready = await self._records.complete(record, disks, kept)
        with suppress(VdcError):
            await self._clean_up()
        await copy.reach(Step.SNAPSHOT_DONE)
        await host.tell(
            copy.name, "snapshot-taken", f"snapshot {name} taken ({how(ready)}, {format_size(ready.size_bytes)})",
            epoch=record.epoch, size_bytes=float(ready.size_bytes),
        )  # fmt: skip
        return ready

    async def _copy_out(self, name: str, *, quiesce: bool, marks: Marks) -> tuple[Snapshot, list[BinaryIO]]:
        files: list[BinaryIO] = []
        try:
            async with self._made(name, quiesce=quiesce, marks=marks) as (_, record):
                plan = self._plan()
                for i in range(plan.disks):
                    files.append(open_foreign(self._copy.guest / plan.file(i)))
                await self._clean_up()
                await self._records.forget(record)
        except BaseException as error:
            _close(files)
            if isinstance(error, OSError):
                raise ConflictError(
                    f"what QEMU copied is no disk: {error}", code="snapshot-failed"
                ) from error
            raise
        return record, files

    @asynccontextmanager
    async def _made(
        self, name: str, *, quiesce: bool, memory: bool = False, marks: Marks = NO_MARKS
    ) -> AsyncIterator[tuple[Endophyte, Snapshot]]:
        """The copies, complete in the guest's folder, and a record that says that it is being made.

        What fails, also inside of it, leaves nothing.
        """
        copy, host = self._copy, self._copy.host
        endophyte = host.mirror.endophyte(copy.name)
        if endophyte is None or endophyte.deleting:
            raise NotFoundError(f"there is no Endophyte named {copy.name}", code="endophyte-not-found")
        is_running = self._require_fit(quiesce=quiesce)
        if memory:
            remembering.require_still(copy, endophyte)
        record = await self._record(endophyte, name, quiesce=quiesce, is_running=is_running)
        record = record.with_(memory=SnapshotMemory() if memory else None)
        self._mine = record
        try:
            await self._records.begin(record, is_passing=marks != NO_MARKS)
            await copy.reach(Step.SNAPSHOT_BEGUN)
            if is_running:
                await self._copy_live(endophyte, quiesce=quiesce, memory=memory, marks=marks)
            else:
                await self._copy_idle(marks)
            await copy.reach(Step.SNAPSHOT_COPIED)
            yield endophyte, record
        except BaseException as error:
            self._removing = asyncio.create_task(self._undo(record), name=f"{copy.name} snapshot undone")
            await asyncio.wait({self._removing}, timeout=_LET_GO_S)
            if isinstance(error, QmpError):
                raise ConflictError(
                    f"the snapshot broke off: {error}", code="snapshot-failed",
                    hint="the VM may have been stopped, or lost its host; try again",
                ) from error  # fmt: skip
            raise
        finally:
            self._mine = None
            self._wake()

    def _require_fit(self, *, quiesce: bool) -> bool:
        """Whether it runs. Raises ConflictError where neither a running nor a stopped VM can be copied now."""
        copy = self._copy
        stage = copy.state.stage
        if copy.state.role is CopyRole.PRIMARY and copy.is_alive and stage in _RUNS:
            if quiesce and stage is CopyStage.PAUSED:
                raise ConflictError(f"{copy.name} is paused: nothing in it can be frozen", code="paused")
            return True
        if stage is CopyStage.ABSENT and not copy.is_alive and copy.state.uid:
            if quiesce:
                raise ConflictError(f"{copy.name} is stopped: nothing in it can be frozen", code="stopped")
            return False
        raise ConflictError(
            f"{copy.name} is {stage} on {copy.host.name}: its disks cannot be copied now",
            code="not-settled", hint="try again in a moment",
        )  # fmt: skip

    async def _record(self, endophyte: Endophyte, name: str, *, quiesce: bool, is_running: bool) -> Snapshot:
        sizes = await self._copy.disks.virtual_sizes()
        if not sizes:
            raise RefusedError(f"{endophyte.name} has no disk", code="no-disk")
        given = [disk.name for disk in endophyte.manifest.spec.disks]
        return Snapshot(
            name=name, endophyte=endophyte.name, uid=endophyte.uid, host=self._copy.host.name,
            epoch=self._copy.state.epoch, created_at=self._copy.host.clock.wall(), is_quiesced=quiesce,
            was_running=is_running, manifest=endophyte.manifest,
            disks=tuple(
                SnapshotDisk(name=given[i] if i < len(given) else f"disk{i}", virtual_bytes=size)
                for i, size in enumerate(sizes)
            ),
        )  # fmt: skip

    async def _copy_live(
        self, endophyte: Endophyte, *, quiesce: bool, marks: Marks, memory: bool = False
    ) -> None:
        copy, plan = self._copy, self._plan(marks)
        sizes = await copy.disks.virtual_sizes()
        await self._require_room(marks, endophyte.manifest.spec.resources.memory if memory else 0)
        await snapshots.end(copy.session(), plan)
        for i, size_bytes in enumerate(sizes):
            (copy.guest / plan.file(i)).unlink(missing_ok=True)
            await self._tool.create(plan.file(i), size_bytes)
        if quiesce:
            async with frozen(copy, endophyte):  # the pair's own work waits for no guest
                await self._fix(plan, quiesce=True)
        else:
            await self._fix(plan, quiesce=False, memory_of=endophyte if memory else None)
        await copy.reach(Step.SNAPSHOT_FIXED)
        await while_there_is_room(copy, snapshots.finish(copy.session(), plan, self._note))

    async def _fix(self, plan: SnapshotPlan, *, quiesce: bool, memory_of: Endophyte | None = None) -> None:
        """The moment itself. Raises ConflictError (`busy`) while a job of the supervisor changes the copy.

        A memory is saved first: QEMU lets go of the disks for it. Nobody lets the guest run before both are fixed.
        """
        if self._deciding.locked():
            raise ConflictError(
                f"{self._copy.name} is being changed", code="busy", hint="try again in a moment"
            )
        async with self._locked():
            self._require_fit(quiesce=quiesce)
            if memory_of is not None:
                remembering.require_still(self._copy, memory_of)
                await while_there_is_room(self._copy, remembering.save(self._copy, self._note))
            await snapshots.begin(self._copy.session(), plan)

    async def _copy_idle(self, marks: Marks) -> None:
        """Of a stopped VM, which cannot be started meanwhile."""
        await self._require_room(marks)
        async with self._locked():
            self._require_fit(quiesce=False)
            await while_there_is_room(self._copy, self._flatten())

    async def _flatten(self) -> None:
        copy, plan = self._copy, self._plan()
        record = await copy.disks.bootable(copy.state.uid)
        for i, head in enumerate(record.heads):
            (copy.guest / plan.file(i)).unlink(missing_ok=True)
            size_bytes = (await self._tool.info(head)).virtual_bytes
            await self._tool.flatten(head, plan.file(i), size_bytes)

    def _note(self, done: int, total: int) -> None:
        self.progress = (done, total)

    async def _require_room(self, marks: Marks, memory_bytes: int = 0) -> None:
        """For a snapshot twice, since the image store takes a copy before the first one goes."""
        needed = await bytes_of_disks(self._copy, self._tool)
        if marks.begin:
            needed = min(needed, marks.changed_bytes) if marks.since else needed
        else:
            needed = 2 * (needed + memory_bytes)
        require_room(self._copy, needed)

    # ---- undoing

    async def _undo(self, record: Snapshot) -> None:
        with suppress(VdcError):  # else it is done when QEMU, or the store, answers again (`look`)
            await self._clean_up()
            await self._records.forget(record)

    async def _clean_up(self) -> None:
        copy, plan = self._copy, self._plan()
        try:
            if copy.is_alive:
                await snapshots.end(copy.session(), plan)
        finally:
            for i in range(plan.disks):
                (copy.guest / plan.file(i)).unlink(missing_ok=True)
            await remembering.clean_up(copy)


def _close(files: Iterable[BinaryIO]) -> None:
    for file in files:
        file.close()


def how(snapshot: Snapshot) -> str:
    """In which state its disks are."""
    if snapshot.is_quiesced:
        return "quiesced"
    if snapshot.memory is not None:
        return "paused, with its memory"
    return "as after a power cut" if snapshot.was_running else "stopped"
