"""Changing what users want: create, apply, run, protect, delete. Every change is one transaction or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pydantic import ValidationError

from vdc.control.allot import allot_nics
from vdc.control.changing import check_changeable
from vdc.control.clock import Clock
from vdc.control.cloudinit import check_cloud_init
from vdc.control.containers import check_container, check_kind
from vdc.control.snapshots import manifest_of
from vdc.images.reference import is_digest
from vdc.model.endophyte import Endophyte, RunState
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, RefusedError, UnavailableError
from vdc.model.ids import new_uid
from vdc.model.image import ImageEntry
from vdc.model.manifest import Disk, EndophyteManifest, MemorySync
from vdc.model.secrets import unmasked
from vdc.model.snapshot import Snapshot
from vdc.model.units import format_size
from vdc.protection.placement import Occupancy, choose_primary
from vdc.store import keys
from vdc.store.mirror import Mirror
from vdc.store.protocol import Put, StateStore, Unchanged

ATTEMPTS = 8

Action = Literal["created", "configured", "unchanged"]


class DesiredState:
    """The users' side of the store. `candidates` says which names of images a manifest's one may mean."""

    def __init__(
        self, store: StateStore, mirror: Mirror, clock: Clock, candidates: Callable[[str], Sequence[str]]
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._clock = clock
        self._candidates = candidates

    async def create(self, manifest: EndophyteManifest, *, dry_run: bool = False) -> Endophyte:
        """Store a new Endophyte. Raises ConflictError (`name-taken`), or why it could never run; nothing stays then."""
        name, manifest = manifest.metadata.name, unmasked(manifest, None)
        for _ in range(ATTEMPTS):
            present = await self._read(name)
            if present is not None:
                raise _name_taken(present[0])
            endophyte, compares, puts = await self._admit(manifest)
            if dry_run:
                return endophyte
            result = await self._store.commit(compares, puts)
            if result.succeeded:
                return endophyte
        raise UnavailableError(
            f"{name} could not be stored: others kept changing the same records", code="contention"
        )

    async def apply(self, manifest: EndophyteManifest, *, dry_run: bool = False) -> tuple[Action, Endophyte]:
        """Create, or change the present one to this manifest, keeping its secrets where the manifest has the mask.

        RefusedError (`immutable-field`) names what cannot be changed, InvalidError (`secret-missing`) what is not
        there to be kept.
        """
        name = manifest.metadata.name
        if await self._read(name) is None:
            return "created", await self.create(manifest, dry_run=dry_run)

        def change(present: Endophyte) -> Endophyte:
            wanted = unmasked(manifest, present.manifest)
            if present.manifest == wanted:
                return present
            check_changeable(present.manifest, wanted)
            after = present.with_(manifest=wanted, generation=present.generation + 1)
            if present.manifest.spec.process == wanted.spec.process:
                return after
            if image := self._mirror.images.get(present.image_digest):
                check_container(wanted, image.value.image)
            # A program is what its guest was powered on with.
            return after.with_(restarts=present.restarts + 1, force_off=False)

        if dry_run:
            found = await self._read(name)
            before = found[0] if found else None
            after = change(_alive_or_refuse(name, before))
            return ("unchanged" if after == before else "configured"), after
        before_generation = _alive_or_refuse(name, self._mirror.endophyte(name)).generation
        after = await self.change(name, change)
        return ("unchanged" if after.generation == before_generation else "configured"), after

    async def change(self, name: str, change: Callable[[Endophyte], Endophyte]) -> Endophyte:
        """Read, change, compare-and-swap; again when somebody else was faster. Raises NotFoundError."""
        for _ in range(ATTEMPTS):
            found = await self._read(name)
            before = _alive_or_refuse(name, found[0] if found else None)
            assert found is not None
            after = change(before)
            if after == before:
                return after
            key = keys.endophyte(name)
            if (await self._store.commit([Unchanged(key, found[1])], [Put(key, after.to_json())])).succeeded:
                return after
        raise UnavailableError(f"{name} could not be changed: others kept changing it", code="contention")

    async def restart(self, name: str, *, force: bool = False) -> Endophyte:
        """Wish a power cycle; a stopped one is refused. `force` does not ask the guest."""

        def raise_count(endophyte: Endophyte) -> Endophyte:
            if endophyte.run is RunState.STOPPED:
                raise ConflictError(f"{name} is stopped", code="stopped", hint=f"vdc start {name}")
            return endophyte.with_(restarts=endophyte.restarts + 1, run=RunState.RUNNING, force_off=force)

        return await self.change(name, raise_count)

    async def set_protection(self, name: str, *, enabled: bool) -> Endophyte:
        """Wish lockstep on or off; refused where the manifest rules it out (`protection-off`)."""

        def switch(endophyte: Endophyte) -> Endophyte:
            if enabled:
                _check_protectable(endophyte.manifest)
            return endophyte.with_(protect=enabled)

        return await self.change(name, switch)

    async def delete(self, name: str) -> Endophyte:
        """Wish it gone; the leader removes the records when its disks are. A restore that waits for that is off."""
        found = await self._read(name)
        if found is not None and found[0].deleting:
            after = found[0].with_(successor=None)
            if after != found[0]:
                key = keys.endophyte(name)
                await self._store.commit([Unchanged(key, found[1])], [Put(key, after.to_json())])
            return after
        return await self.change(name, lambda e: e.with_(deleting=True))

    async def restore(self, snapshot: Snapshot, *, run: bool, with_memory: bool = False) -> Endophyte:
        """Wish that a stopped VM begins anew from its snapshot, with its name and addresses.

        `with_memory`: it goes on where it was, at its first start; whoever asks has looked whether it can.

        Its disks become another VM's in all but the name: a new uid, so that no copy of the old ones is ever booted.
        Raises ConflictError (`not-stopped`, `snapshot-not-ready`), NotFoundError.
        """
        name = snapshot.endophyte
        for _ in range(ATTEMPTS):
            found = await self._read(name)
            present = _alive_or_refuse(name, found[0] if found else None)
            assert found is not None
            if present.run is not RunState.STOPPED:
                raise ConflictError(f"{name} is not stopped", code="not-stopped", hint=f"vdc stop {name}")
            wanted = manifest_of(snapshot, name, keep_addresses=True)
            wanted = wanted.with_(spec=wanted.spec.with_(networks=present.manifest.spec.networks))
            entry, named = await self._find_image(wanted.spec.image)
            digests, disks_named = await self._find_disk_images(wanted)
            memory = snapshot.memory if with_memory else None
            kept, kept_named = await self._find_image(memory.image) if memory else (None, None)
            successor = Endophyte(
                manifest=wanted, uid=new_uid(), image_digest=entry.digest, disk_image_digests=digests,
                image_firmware=entry.image.firmware, nics=present.nics, created_at=self._clock.wall(),
                memory_digest=kept.digest if kept else "",
                run=RunState.RUNNING if run else RunState.STOPPED, protect=present.protect,
            )  # fmt: skip
            key = keys.endophyte(name)
            compares = [Unchanged(key, found[1]), named, *disks_named, *([kept_named] if kept_named else [])]
            after = present.with_(deleting=True, successor=successor)
            if (await self._store.commit(compares, [Put(key, after.to_json())])).succeeded:
                return after
        raise UnavailableError(f"{name} could not be changed: others kept changing it", code="contention")

    # ---- helpers

    async def _read(self, name: str) -> tuple[Endophyte, int] | None:
        item = await self._store.get(keys.endophyte(name))
        return (Endophyte.from_json(item.value), item.mod_revision) if item else None

    async def _admit(self, manifest: EndophyteManifest) -> tuple[Endophyte, list[Unchanged], list[Put]]:
        """Check that it can run and allot its addresses; the compares hold what was found free."""
        spec = manifest.spec
        entry, named = await self._find_image(spec.image)
        check_kind(manifest, entry.image)
        _check_fits_image(manifest, entry)
        check_container(manifest, entry.image)
        check_cloud_init(manifest, entry.image)
        digests, disks_named = await self._find_disk_images(manifest)
        self._check_ports(manifest)
        uid = new_uid()
        taken, taken_macs = await self._taken()
        networks = {name: found.value for name, found in self._mirror.networks.items()}
        nics = allot_nics(spec, networks, taken, taken_macs)
        endophyte = Endophyte(
            manifest=manifest,
            uid=uid,
            image_digest=entry.digest,
            disk_image_digests=digests,
            image_firmware=entry.image.firmware,
            nics=nics,
            created_at=self._clock.wall(),
        )
        self._check_room(endophyte)
        reserved = [
            *(keys.address(nic.network, nic.address) for nic in nics),
            *(keys.mac(nic.mac) for nic in nics),
        ]
        main = keys.endophyte(manifest.metadata.name)
        compares = [named, *disks_named, *(Unchanged(key, 0) for key in (main, *reserved))]
        return endophyte, compares, [Put(main, endophyte.to_json()), *(Put(key, uid) for key in reserved)]

    async def _find_disk_images(self, manifest: EndophyteManifest) -> tuple[tuple[str, ...], list[Unchanged]]:
        """As `_find_image`, for each disk; an empty digest where it names none. Raises InvalidError as well."""
        digests, compares = [], dict[str, Unchanged]()
        for disk in manifest.spec.disks:
            entry, named = await self._find_image(disk.image) if disk.image else (None, None)
            if entry is not None and named is not None:
                _check_fits_disk(disk, entry)
                compares[named.key] = named
            digests.append(entry.digest if entry else "")
        return tuple(digests) if any(digests) else (), list(compares.values())

    async def _find_image(self, reference: str) -> tuple[ImageEntry, Unchanged]:
        """The image behind a name or digest, and the compare that a name still leads there: one without may go.

        Raises NotFoundError (`image-not-found`) with how to get one.
        """
        if is_digest(reference):
            item = await self._store.get(keys.image(reference))
            found = ImageEntry.from_json(item.value) if item else None
            if item is None or found is None or not found.names:
                raise NotFoundError(
                    f"image {reference} {'has lost its names' if item else 'does not exist here'}",
                    code="image-not-found",
                    hint="choose one of `vdc image ls -o json`, or import it again",
                )
            return found, Unchanged(item.key, item.mod_revision)
        names = self._candidates(reference)
        for name in names:
            named = await self._store.get(keys.image_name(name))
            entry = await self._store.get(keys.image(named.value)) if named else None
            if named is not None and entry is not None:
                return ImageEntry.from_json(entry.value), Unchanged(named.key, named.mod_revision)
        raise NotFoundError(
            f"image {names[0]} does not exist here",
            code="image-not-found",
            hint=f"import it with `vdc image import FILE --name {names[0]}`, a container image with "
            f"`vdc image import docker://{names[-1]}`, or choose one of `vdc image ls`",
        )

    def _check_ports(self, manifest: EndophyteManifest) -> None:
        if manifest.spec.ports:
            raise RefusedError(
                "ports: publishing on the hosts is not supported yet",
                code="ports-unsupported",
                hint="reach the guest at its overlay address (`vdc get endophytes`)",
            )

    def _check_room(self, endophyte: Endophyte) -> None:
        alive = self._mirror.alive
        hosts = [found.value for name, found in self._mirror.hosts.items() if name in alive]
        pairs = [found.value for found in self._mirror.pairs.values()]
        endophytes = {name: found.value for name, found in self._mirror.endophytes.items()}
        choose_primary(endophyte, hosts, Occupancy.of(pairs, endophytes))

    async def _taken(self) -> tuple[Mapping[str, set[str]], set[str]]:
        taken: dict[str, set[str]] = {}
        macs: set[str] = set()
        for item in (await self._store.list(keys.ADDRESSES)).items:
            network, _, address = item.key.removeprefix(keys.ADDRESSES).partition("/")
            (macs if network == "mac" else taken.setdefault(network, set())).add(address)
        return taken, macs


def _name_taken(present: Endophyte) -> ConflictError:
    if present.deleting:
        return ConflictError(
            f"{present.name} is still being deleted", code="being-deleted", hint="try again in a moment"
        )
    return ConflictError(
        f"an Endophyte named {present.name} exists already",
        code="name-taken",
        hint=f"vdc describe endophyte {present.name}, or choose another name",
    )


def _alive_or_refuse(name: str, endophyte: Endophyte | None) -> Endophyte:
    if endophyte is None:
        raise NotFoundError(
            f"there is no Endophyte named {name}", code="endophyte-not-found", hint="vdc get endophytes"
        )
    if endophyte.deleting:
        raise ConflictError(f"{name} is being deleted", code="being-deleted")
    return endophyte


def _check_fits_image(manifest: EndophyteManifest, entry: ImageEntry) -> None:
    memory, least = manifest.spec.resources.memory, entry.image.min_memory_bytes
    if memory < least:
        raise InvalidError(
            f"image {manifest.spec.image} needs {format_size(least)} of memory, {format_size(memory)} are given",
            code="memory-too-small",
            hint=f"--memory {format_size(least)}",
        )
    own, others = manifest.spec.disks[:1], manifest.spec.disks[1:]
    if entry.image.disk is None:
        own, others = (), manifest.spec.disks
    for disk in own:
        _check_fits_disk(disk, entry)
        if disk.image is not None:
            raise InvalidError(
                f"disk {disk.name} is that of image {manifest.spec.image} already",
                hint="the first disk is the image's own; name another image for a further disk",
                code="disk-image-twice",
            )
    sizeless = [disk.name for disk in others if disk.size is None and disk.image is None]
    if sizeless:
        raise InvalidError(f"disk {sizeless[0]} has neither an image nor a size", code="disk-size-missing")


def _check_fits_disk(disk: Disk, entry: ImageEntry) -> None:
    if entry.image.disk is None:
        raise InvalidError(f"image {disk.image} of disk {disk.name} has no disk", code="image-diskless")
    if disk.size is not None and disk.size < entry.image.disk_virtual_bytes:
        raise InvalidError(
            f"disk {disk.name} is smaller than the image ({format_size(entry.image.disk_virtual_bytes)})",
            code="disk-too-small",
        )


def _check_protectable(manifest: EndophyteManifest) -> None:
    name, computer = manifest.metadata.name, manifest.spec.virtual_computer
    if computer.memory_sync is MemorySync.NONE:
        raise RefusedError(
            f"the manifest of {name} says memorySync: none",
            code="protection-off",
            hint="apply the manifest with memorySync: continuous",
        )
    if not manifest.spec.wants_protection:
        raise RefusedError(
            f"the manifest of {name} sets {computer.dedicated_nodes} host aside, and a replica needs another one",
            code="protection-off",
            hint="apply the manifest with virtualComputer.dedicatedNodes: 2 or more",
        )


def parse_manifest(document: object) -> EndophyteManifest:
    """Validate a manifest from the wire; raises InvalidError (`manifest-invalid`) with the first fault's path."""
    try:
        return EndophyteManifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise InvalidError(f"{path}: {first['msg']}", code="manifest-invalid") from error
