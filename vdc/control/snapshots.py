"""The records of snapshots: begun, ready, removed, and what a VM that is made of one is like.

A snapshot is known from before its first byte until after its last: what is being made can be seen and taken away.
Its images bear names that nothing else gives or takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vdc.control.clock import Clock
from vdc.control.images import ImageRecords
from vdc.model.errors import ConflictError, FencedError, NotFoundError
from vdc.model.image import Image
from vdc.model.manifest import EndophyteManifest
from vdc.model.snapshot import Snapshot, SnapshotDisk, SnapshotMemory, SnapshotState, made_of
from vdc.store import keys
from vdc.store.protocol import KeyValue, Put, StateStore, Unchanged

MOST_PER_VM = 100


class SnapshotRecords:
    """Every change is one transaction or nothing.

    An image gets its name while the record says that the snapshot is being made, and loses it together with the record.
    """

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self._store = store
        self._images = ImageRecords(store, clock)

    async def begin(self, snapshot: Snapshot, *, is_passing: bool = False) -> None:
        """Raises ConflictError (`snapshot-exists`), and where there are too many.

        One that `is_passing` is forgotten when it is complete (a backup's), so it is not one too many.
        """
        key = keys.snapshot(snapshot.endophyte, snapshot.name)
        prefix = keys.snapshot(snapshot.endophyte, "")
        if not is_passing and len((await self._store.list(prefix)).items) >= MOST_PER_VM:
            raise ConflictError(
                f"{snapshot.endophyte} has {MOST_PER_VM} snapshots",
                code="too-many-snapshots",
                hint=f"vdc snapshot ls {snapshot.endophyte}; vdc snapshot rm {snapshot.endophyte} NAME",
            )
        if not (await self._store.commit([Unchanged(key, 0)], [Put(key, snapshot.to_json())])).succeeded:
            raise ConflictError(
                f"{snapshot.endophyte} has a snapshot named {snapshot.name}",
                code="snapshot-exists",
                hint=f"choose another name, or: vdc snapshot rm {snapshot.endophyte} {snapshot.name}",
            )

    async def register(
        self, snapshot: Snapshot, name: str, image: Image, *, host: str, chunks: Mapping[str, str]
    ) -> None:
        """Name one of its images, which `host` holds. Raises FencedError where it was taken away meanwhile."""
        item = await self._own(snapshot)
        source = f"endophyte/{snapshot.endophyte} at {snapshot.created_at}"
        try:
            await self._images.register(
                name, image, host=host, chunks=chunks, source=source,
                only_while=Unchanged(item.key, item.mod_revision),
            )  # fmt: skip
        except FencedError as error:
            raise _removed(snapshot) from error

    async def complete(
        self, snapshot: Snapshot, disks: Iterable[SnapshotDisk], memory: SnapshotMemory | None = None
    ) -> Snapshot:
        """Its images are registered. Raises FencedError where it was taken away meanwhile."""
        item = await self._own(snapshot)
        ready = snapshot.with_(state=SnapshotState.READY, disks=tuple(disks), memory=memory)
        compares = [Unchanged(item.key, item.mod_revision)]
        if not (await self._store.commit(compares, [Put(item.key, ready.to_json())])).succeeded:
            raise _removed(snapshot)
        return ready

    async def find(self, endophyte: str, name: str) -> Snapshot:
        """Raises NotFoundError (`snapshot-not-found`)."""
        item = await self._store.get(keys.snapshot(endophyte, name))
        if item is None:
            raise NotFoundError(
                f"{endophyte} has no snapshot {name}",
                code="snapshot-not-found",
                hint=f"vdc snapshot ls {endophyte}",
            )
        return Snapshot.from_json(item.value)

    async def has(self, snapshot: Snapshot) -> bool:
        """Whether there is exactly this one; what a mirror shows may be older."""
        return await self._item(snapshot) is not None

    async def remove(self, endophyte: str, name: str) -> None:
        """Take a snapshot away; its content stays while VMs are made of it. Raises NotFoundError."""
        while not await self.forget(await self.find(endophyte, name)):
            pass  # it has become ready meanwhile

    async def forget(self, snapshot: Snapshot) -> bool:
        """Take away exactly this one, as it is here; whether it was there.

        Another one of its name stays, and one that has become ready since.
        """
        item = await self._item(snapshot)
        return item is not None and await self._images.remove_with(snapshot.images, item)

    async def _item(self, snapshot: Snapshot) -> KeyValue | None:
        item = await self._store.get(keys.snapshot(snapshot.endophyte, snapshot.name))
        return item if item is not None and Snapshot.from_json(item.value) == snapshot else None

    async def _own(self, snapshot: Snapshot) -> KeyValue:
        """The record of one that is made here. Raises FencedError where it was taken away."""
        item = await self._item(snapshot)
        if item is None:
            raise _removed(snapshot)
        return item


def _removed(snapshot: Snapshot) -> FencedError:
    return FencedError(f"snapshot {snapshot.name} of {snapshot.endophyte} was removed while it was made")


def manifest_of(snapshot: Snapshot, name: str, *, keep_addresses: bool = False) -> EndophyteManifest:
    """What a VM is like that is made of a snapshot. Raises ConflictError (`snapshot-not-ready`).

    Addresses and MACs that the manifest fixes are those of the VM that it was taken of; another one gets its own.
    """
    if snapshot.state is not SnapshotState.READY:
        raise ConflictError(f"snapshot {snapshot.name} is still being made", code="snapshot-not-ready")
    kept = [(disk.virtual_bytes, disk.image) for disk in snapshot.disks]
    return made_of(snapshot.manifest, name, kept, keep_addresses=keep_addresses)
