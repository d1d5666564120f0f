"""The records of images: naming them, taking names away, and what goes when nobody needs an image any more.

A record goes only by `remove_unneeded_images`, when it has no name and no VM is made of it; the content follows on
every host. An image loses its last name when that is taken away, or another image is imported under it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from vdc.control.clock import Clock
from vdc.images.reference import candidates, digest_of, is_digest, normalise_reference
from vdc.model.endophyte import Endophyte
from vdc.model.errors import ConflictError, FencedError, NotFoundError
from vdc.model.image import Image, ImageEntry
from vdc.model.snapshot import is_of_snapshot
from vdc.store import keys
from vdc.store.mirror import Mirror
from vdc.store.protocol import Delete, KeyValue, Put, StateStore, Unchanged

ATTEMPTS = 8


class ImageRecords:
    """The users' side. Every change is one transaction or nothing."""

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def register(
        self,
        name: str,
        image: Image,
        *,
        host: str,
        chunks: Mapping[str, str],
        source: str = "",
        only_while: Unchanged | None = None,
    ) -> str:
        """Name an image that `host` holds; its digest. The name moves where another image had it.

        `only_while`: of the record that the name belongs to; raises FencedError where it is another by now.
        """
        name, digest = normalise_reference(name), digest_of(image)
        for _ in range(ATTEMPTS):
            item = await self._store.get(keys.image(digest))
            entry = (
                ImageEntry.from_json(item.value)
                if item
                else ImageEntry(digest=digest, image=image, source=source, created_at=self._clock.wall())
            )
            entry = entry.with_(
                names=tuple(sorted({*entry.names, name})),
                hosts=tuple(sorted({*entry.hosts, host})),
                chunks={**entry.chunks, **chunks},
            )
            before = await self._store.get(keys.image_name(name))
            compares = [
                Unchanged(keys.image(digest), item.mod_revision if item else 0),
                Unchanged(keys.image_name(name), before.mod_revision if before else 0),
                *([only_while] if only_while else []),
            ]
            puts: list[Put | Delete] = [
                Put(keys.image(digest), entry.to_json()),
                Put(keys.image_name(name), digest),
            ]
            if before is not None and before.value != digest:
                await self._strip(before.value, [name], compares, puts)
            if (await self._store.commit(compares, puts)).succeeded:
                return digest
            if only_while is not None and not await self._is(only_while):
                raise FencedError(f"what {name} belongs to was removed or changed meanwhile")
        raise _contention(name)

    async def remove_with(self, names: Iterable[str], record: KeyValue) -> bool:
        """Take a record away, and in the same transaction the names that belong to it; whether it was still that one.

        VMs that are made of such an image keep its content. A name that is not there is no error.
        """
        names = tuple(names)
        for _ in range(ATTEMPTS):
            compares = [Unchanged(record.key, record.mod_revision)]
            operations: list[Put | Delete] = [Delete(record.key)]
            taken: dict[str, list[str]] = {}
            for name in names:
                item = await self._store.get(keys.image_name(name))
                compares.append(Unchanged(keys.image_name(name), item.mod_revision if item else 0))
                if item is not None:
                    operations.append(Delete(item.key))
                    taken.setdefault(item.value, []).append(name)
            for digest, of_it in taken.items():
                await self._strip(digest, of_it, compares, operations)
            if (await self._store.commit(compares, operations)).succeeded:
                return True
            if not await self._is(Unchanged(record.key, record.mod_revision)):
                return False
        raise _contention(record.key)

    async def unname(self, reference: str) -> tuple[str, ...]:
        """Take a name away, or all names of the image with this digest; which.

        Raises NotFoundError, ConflictError (`image-in-use`) where VMs are made of it and no name would be left.
        """
        entry, names = await self._find(reference)
        users = (await self.users()).get(entry.digest, ())
        if users and set(names) >= set(entry.names):
            raise ConflictError(
                f"image {reference} is used by {', '.join(users)}",
                code="image-in-use",
                hint=f"delete first what is made of it: vdc delete endophyte {' '.join(users)}",
            )
        await self._unname(entry.digest, names)
        return names

    async def prune(self, *, named: bool, is_dry: bool = False) -> tuple[ImageEntry, ...]:
        """Let go of images that no VM is made of: those without a name, with `named` the others too; which.

        Those of snapshots stay.

        One that cannot be taken because others change it at the same time is left out.
        """
        used = await self.users()
        found = [ImageEntry.from_json(item.value) for item in (await self._store.list(keys.IMAGES)).items]
        idle = [
            entry
            for entry in found
            if entry.digest not in used
            and (named or not entry.names)
            and not any(map(is_of_snapshot, entry.names))
        ]
        if is_dry:
            return tuple(idle)
        gone = []
        for entry in idle:
            try:
                await self._unname(entry.digest, entry.names)
            except ConflictError:
                continue
            gone.append(entry)
        return tuple(gone)

    async def users(self) -> dict[str, tuple[str, ...]]:
        """Names of the VMs that are made of an image, by its digest; as the store has them now."""
        items = (await self._store.list(keys.ENDOPHYTES)).items
        return users_of(found for item in items if (found := _endophyte(item)) is not None)

    # ---- helpers

    async def _is(self, before: Unchanged) -> bool:
        item = await self._store.get(before.key)
        return (item.mod_revision if item else 0) == before.mod_revision

    async def _find(self, reference: str) -> tuple[ImageEntry, tuple[str, ...]]:
        """An image, and which of its names are meant: those of a digest are all."""
        if is_digest(reference):
            item = await self._store.get(keys.image(reference))
            if item is not None:
                entry = ImageEntry.from_json(item.value)
                return entry, entry.names
        for name in () if is_digest(reference) else candidates(reference):
            named = await self._store.get(keys.image_name(name))
            item = await self._store.get(keys.image(named.value)) if named is not None else None
            if item is not None:
                return ImageEntry.from_json(item.value), (name,)
        raise NotFoundError(f"there is no image {reference}", code="image-not-found", hint="vdc image ls")

    async def _unname(self, digest: str, names: Iterable[str]) -> None:
        names = tuple(names)
        compares: list[Unchanged] = []
        operations: list[Put | Delete] = []
        for name in names:
            item = await self._store.get(keys.image_name(name))
            if item is not None and item.value == digest:
                compares.append(Unchanged(item.key, item.mod_revision))
                operations.append(Delete(item.key))
        await self._strip(digest, names, compares, operations)
        if operations and not (await self._store.commit(compares, operations)).succeeded:
            raise _contention(", ".join(names))

    async def _strip(
        self,
        digest: str,
        names: Iterable[str],
        compares: list[Unchanged],
        operations: list[Put | Delete],
    ) -> None:
        """Names leave an image's record. It keeps its content while a VM is made of it."""
        item = await self._store.get(keys.image(digest))
        if item is not None:
            entry = ImageEntry.from_json(item.value)
            kept = tuple(other for other in entry.names if other not in set(names))
            compares.append(Unchanged(item.key, item.mod_revision))
            operations.append(Put(item.key, entry.with_(names=kept).to_json()))


def users_of(endophytes: Iterable[Endophyte]) -> dict[str, tuple[str, ...]]:
    """Names of VMs by the digests of the images that they are made of."""
    found: dict[str, list[str]] = {}
    for endophyte in endophytes:
        for digest in endophyte.image_digests:
            found.setdefault(digest, []).append(endophyte.name)
    return {digest: tuple(sorted(names)) for digest, names in found.items()}


async def remove_unneeded_images(store: StateStore, mirror: Mirror) -> tuple[str, ...]:
    """Returns the digests of what was removed.

    A name that is given back meanwhile changes the record, and it stays. A VM can be made of an image only while a
    name leads there (`DesiredState.create` compares that), so whoever sees the last name gone sees every such VM.
    """
    if any(key.startswith(keys.ENDOPHYTES) for key in mirror.unreadable):
        return ()  # nobody knows what that one is made of
    needed = set(mirror.image_names.values()).union(
        *(found.value.image_digests for found in mirror.endophytes.values())
    )
    removed = []
    for digest, found in list(mirror.images.items()):
        if found.value.names or digest in needed:
            continue
        key = keys.image(digest)
        if (await store.commit([Unchanged(key, found.revision)], [Delete(key)])).succeeded:
            removed.append(digest)
    return tuple(removed)


def _endophyte(item: KeyValue) -> Endophyte | None:
    try:
        return Endophyte.from_json(item.value)
    except ValidationError:  # `remove_unneeded_images` takes nothing away then
        return None


def _contention(name: str) -> ConflictError:
    return ConflictError(f"{name} is being changed by others", code="contention", hint="try again")
