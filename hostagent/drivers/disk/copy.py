"""One host's copy of a VM's disks: which files it consists of, and whether it may be booted.

Invariants (I7, docs/failover.md):
- The record beside the files says whose copy it is (uid), under which epoch it was written and whether it is
  clean. It is on disk (fsync) before anything that depends on it begins.
- A dirty copy is never booted, only thrown away and filled again.
- An older copy is never booted either. It is a complete disk as of its epoch, kept so that a later resync need
  bring only what was written since; with the first byte of that it is dirty.
- A saved memory fits the disks as they were made with it. The record names it until the first guest is about to go
  on, and never again: a memory over disks that were written since would destroy them.
- `heads` are the files that a cold start opens. A promoted secondary's heads are its active layers until QEMU
  has written them back (`settled`), then its parents.

Danger: between QEMU's last write-back and `settled` the guest's newest writes go to the parent while the
record still names the active layer. A host that dies in these milliseconds, straight after the other one,
loses them.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from hostagent.drivers.disk.images import QemuImg
from hostagent.drivers.process import in_thread
from hostagent.drivers.process.reserve import write_with_reserve
from hostagent.drivers.qemu.spec import VM_DIR, DiskSpec
from vdc.model.base import Record
from vdc.model.errors import ConflictError, UnavailableError

RECORD_FILE = "copy.json"


class CopyState(StrEnum):
    """Whether the files are a disk."""

    CLEAN = "clean"  # a complete disk of the VM as of its epoch
    DIRTY = "dirty"  # being filled, or abandoned while it was
    UNSETTLED = "unsettled"  # promoted: complete, but spread over its layers
    OLDER = "older"  # a complete disk once; others have written since


class CopyRecord(Record):
    """The record beside the files."""

    uid: str
    epoch: int
    state: CopyState
    heads: tuple[str, ...]
    memory: str = ""  # digest of the image of the memory that belongs to these disks: they were never started


@dataclass(frozen=True, slots=True)
class DiskSource:
    """What a new disk begins with: a base of the image store (path below it), an empty ext4 file system, or nothing.

    `file_system` is the UUID of that.
    """

    size_bytes: int | None
    base: str | None = None
    base_format: str = "qcow2"
    file_system: str = ""


class DiskSet:
    """The disk files of one copy, in the guest's folder; `record_dir` is one that QEMU cannot reach."""

    def __init__(self, tool: QemuImg, record_dir: Path) -> None:
        self._tool = tool
        self._folder = tool.folder
        self._record = record_dir / RECORD_FILE

    async def load(self) -> CopyRecord | None:
        """The record; None where there is no copy. Raises ConflictError where it cannot be read."""
        return await asyncio.to_thread(_read_record, self._record)

    def is_unmade(self, record: CopyRecord | None) -> bool:
        """Whether no disk has been completed here yet: nothing is lost by making them (again)."""
        if record is None:
            return not any(self._folder.glob("*.qcow2"))
        return record.state is CopyState.DIRTY and not record.heads

    async def create_primary(
        self, uid: str, epoch: int, sources: Sequence[DiskSource], memory: str = ""
    ) -> CopyRecord:
        """Make the disks of a new VM, replacing whatever is there. `memory`: of `CopyRecord`."""
        await self._begin(uid, epoch)
        heads = tuple(f"disk{i}.qcow2" for i in range(len(sources)))
        for head, source in zip(heads, sources, strict=True):
            if source.base is not None:
                await self._tool.create_overlay(
                    head, source.base, base_format=source.base_format, size_bytes=source.size_bytes
                )
            elif source.size_bytes is not None and source.file_system:
                await self._tool.create_ext4(head, source.size_bytes, source.file_system)
            elif source.size_bytes is not None:
                await self._tool.create(head, source.size_bytes)
            else:
                raise ValueError("a disk needs a base or a size")
        made = CopyRecord(uid=uid, epoch=epoch, state=CopyState.CLEAN, heads=heads, memory=memory)
        return await self._store(made)

    async def use_memory(self) -> CopyRecord:
        """The memory that belongs to these disks is used up, on disk when this returns."""
        return await self._change(memory="")

    async def create_secondary(
        self, uid: str, epoch: int, sizes_bytes: Sequence[int], bases: Sequence[DiskSource | None] = ()
    ) -> CopyRecord:
        """Make empty layers for a secondary, replacing whatever is there; dirty until `in_sync`.

        Where `bases` names a base of the image store, its content need not be copied: it is below the parent.
        """
        record = await self._begin(uid, epoch)
        for i, size_bytes in enumerate(sizes_bytes):
            spec, base = names(i), bases[i] if i < len(bases) else None
            if base is not None and base.base is not None:
                await self._tool.create_overlay(
                    spec.parent, base.base, base_format=base.base_format, size_bytes=size_bytes
                )
            else:
                await self._tool.create(spec.parent, size_bytes)
            await self._create_layers(i)
        return record

    async def reuse_older(self, epoch: int) -> CopyRecord:
        """Fresh layers over the parents of an older copy, which is dirty from here on until `in_sync`."""
        older = await self._present()
        record = await self._store(older.with_(epoch=epoch, state=CopyState.DIRTY, heads=()))
        for i in range(len(older.heads)):
            await self._create_layers(i)
        return record

    async def keep_older(self) -> CopyRecord:
        """What this secondary was is now an older copy. Its QEMU has written everything out and has ended.

        Raises ConflictError or DiskToolError where the parents are not a sound disk.
        """
        record = await self._present()
        if record.state is not CopyState.CLEAN or any(
            head != names(i).parent for i, head in enumerate(record.heads)
        ):
            raise ConflictError(f"a copy that is {record.state} cannot be kept", code="disk-not-clean")
        for head in record.heads:
            await self._tool.check(head)
        record = await self._change(state=CopyState.OLDER)
        for i in range(len(record.heads)):
            for name in (names(i).active, names(i).hidden):
                (self._folder / name).unlink(missing_ok=True)
        return record

    async def _create_layers(self, disk: int) -> None:
        spec = names(disk)
        await self._tool.create_layer(spec.hidden, spec.parent)
        await self._tool.create_layer(spec.active, spec.hidden)

    async def in_sync(self, count: int) -> CopyRecord:
        """The parents hold everything that the primary wrote: a cold start could use them."""
        heads = tuple(names(i).parent for i in range(count))
        return await self._change(state=CopyState.CLEAN, heads=heads)

    async def promoted(self, epoch: int, count: int) -> CopyRecord:
        """The secondary's guest writes on its own layers from here on."""
        heads = tuple(names(i).active for i in range(count))
        return await self._change(epoch=epoch, state=CopyState.UNSETTLED, heads=heads)

    async def settled(self) -> CopyRecord:
        """The layers were written back (`secondary.settle` returned): the parents are the disks."""
        record = await self._present()
        count = len(record.heads)
        record = await self._change(state=CopyState.CLEAN, heads=tuple(names(i).parent for i in range(count)))
        for i in range(count):
            for name in (names(i).active, names(i).hidden):
                (self._folder / name).unlink(missing_ok=True)
        return record

    async def renew(self, epoch: int) -> CopyRecord:
        """The same files belong to a newer epoch."""
        return await self._change(epoch=epoch)

    async def spoil(self) -> CopyRecord:
        """The copy may no longer be booted."""
        return await self._change(state=CopyState.DIRTY)

    async def bootable(self, uid: str) -> CopyRecord:
        """The record of a copy that may be started; raises ConflictError for any other.

        Writes the layers of a copy that was promoted and never settled into its parents first.
        """
        record = await self._present()
        if record.uid != uid:
            raise ConflictError("the disks here belong to an earlier VM of this name", code="disk-other-uid")
        if record.state is CopyState.OLDER:
            raise ConflictError("the copy of the disks here is not the newest", code="disk-older")
        if record.state is CopyState.DIRTY:
            raise ConflictError("the copy of the disks here is incomplete", code="disk-dirty")
        if record.state is CopyState.UNSETTLED:
            for i in range(len(record.heads)):
                await self._tool.commit(names(i).active)
                await self._tool.commit(names(i).hidden)
            record = await self.settled()
        return record

    async def virtual_sizes(self) -> tuple[int, ...]:
        """Virtual sizes of the disks in bytes; a secondary's have to be the same."""
        record = await self._present()
        return tuple([(await self._tool.info(head)).virtual_bytes for head in record.heads])

    async def bases(self) -> tuple[str, ...]:
        """Per disk, the base in the image store that it is an overlay of; empty where it stands alone."""
        record = await self._present()
        return tuple([await self._tool.base_of(head) for head in record.heads])

    async def remove(self) -> None:
        """Delete the record first and the files after it; harmless where there is nothing."""
        self._record.unlink(missing_ok=True)
        for pattern in ("disk?.qcow2", "disk?.qcow2.raw", "parent?.qcow2", "active?.qcow2", "hidden?.qcow2"):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)

    async def _begin(self, uid: str, epoch: int) -> CopyRecord:
        await self.remove()
        return await self._store(CopyRecord(uid=uid, epoch=epoch, state=CopyState.DIRTY, heads=()))

    async def _present(self) -> CopyRecord:
        record = await self.load()
        if record is None:
            raise ConflictError("there is no copy of the disks here", code="disk-missing")
        return record

    async def _change(self, **changes: object) -> CopyRecord:
        return await self._store((await self._present()).with_(**changes))

    async def _store(self, record: CopyRecord) -> CopyRecord:
        try:
            await in_thread(write_with_reserve, self._record, record.to_json())
        except OSError as error:
            raise UnavailableError(
                f"{self._record} cannot be written: {error.strerror or error}", code="state-unwritable"
            ) from error
        return record


def names(index: int) -> DiskSpec:
    """The files' names in the VM's folder; `file` is that of a disk which was never promoted."""
    return DiskSpec(
        file=f"disk{index}.qcow2",
        parent=f"parent{index}.qcow2",
        active=f"active{index}.qcow2",
        hidden=f"hidden{index}.qcow2",
    )


def disk_specs(record: CopyRecord, count: int | None = None) -> tuple[DiskSpec, ...]:
    """The disks of a machine's specification, with paths inside the sandbox.

    `count` is needed for a secondary that has no heads yet.
    """
    specs = []
    for i in range(len(record.heads) if count is None else count):
        plain = names(i)
        file = record.heads[i] if i < len(record.heads) else plain.file
        specs.append(
            DiskSpec(
                file=f"{VM_DIR}/{file}",
                parent=f"{VM_DIR}/{plain.parent}",
                active=f"{VM_DIR}/{plain.active}",
                hidden=f"{VM_DIR}/{plain.hidden}",
            )
        )
    return tuple(specs)


def older_copy(folder: Path) -> CopyRecord | None:
    """The record of an older copy; None where there is anything else. Never raises."""
    try:
        record = _read_record(folder / RECORD_FILE)
    except (ConflictError, OSError):
        return None
    return record if record is not None and record.state is CopyState.OLDER else None


def remove_but_older(folder: Path, guest: Path, older: CopyRecord | None) -> None:
    """Remove a VM's folder with the guest's in it, but for what an older copy consists of. Blocks."""
    if older is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    _remove_but(folder, {RECORD_FILE, guest.name})
    _remove_but(guest, set(older.heads))


def _remove_but(folder: Path, keep: Collection[str]) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in keep:
            path.unlink() if not path.is_dir() or path.is_symlink() else shutil.rmtree(path)


def _read_record(path: Path) -> CopyRecord | None:
    try:
        return CopyRecord.from_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ConflictError(
            f"{path} cannot be read; the disks beside it are left alone", code="disk-record-unreadable"
        ) from error
