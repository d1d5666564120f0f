"""The memory of a paused guest: kept with a snapshot of its disks, and the one start that goes on with it.

A memory is used once. The record of the disks that were made for it names it until QEMU has it, and not any more when
the guest goes on (drivers/disk/copy.py): an agent that dies before loads it again, one that dies after never does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from hostagent.drivers.qemu import primary, saving
from hostagent.drivers.qemu.spec import IMAGE_DIR, MachineSpec
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.machine import machine_spec, saved_machine
from vdc.control.snapshots import SnapshotRecords
from vdc.images.blobs import relative_path
from vdc.model.endophyte import CopyStage, Endophyte, MachineFacts
from vdc.model.errors import ConflictError, InvalidError, RefusedError, VdcError
from vdc.model.image import Image, ImageKind
from vdc.model.memory import difference
from vdc.model.snapshot import Snapshot, SnapshotMemory, memory_name
from vdc.model.step import Step
from vdc.store import keys
from vdc.store.protocol import Put, Unchanged

WAY_OUT = "vdc snapshot restore VM NAME --no-memory: it boots from the disks of that moment"
_BYTES_PER_MBIT = 125_000


def require_still(copy: Copy, endophyte: Endophyte) -> None:
    """Raises ConflictError (`not-paused`) unless its memory stands still, RefusedError where it cannot be kept."""
    if endophyte.manifest.spec.tpm:
        raise RefusedError(
            f"{copy.name} has a TPM, whose state is not kept: its memory could not go on without it",
            code="memory-unsupported", hint="take the snapshot without --memory",
        )  # fmt: skip
    if copy.state.stage is not CopyStage.PAUSED:
        raise ConflictError(
            f"{copy.name} is {copy.state.stage}: memory is kept of a paused VM alone",
            code="not-paused", hint=f"vdc pause {copy.name}; without --memory the disks are kept as it runs",
        )  # fmt: skip


async def save(copy: Copy, progress: Callable[[int, int], None]) -> None:
    """Write the memory to the guest's folder. Its disks have to be fixed before anybody lets it run."""
    (copy.guest / saving.FILE).unlink(missing_ok=True)
    speed = copy.host.config.resync_mbit * _BYTES_PER_MBIT
    await saving.save(copy.session(), bytes_per_s=speed, progress=progress)
    await copy.reach(Step.SAVE_SAVED)


async def store(copy: Copy, endophyte: Endophyte, record: Snapshot) -> SnapshotMemory:
    """Make an image of what was saved, with the machine that it fits.

    Raises ConflictError (`snapshot-failed`), FencedError where the snapshot was taken away meanwhile.
    """
    host, facts = copy.host, copy.state.machine
    assert facts is not None
    own = host.mirror.images[endophyte.image_digest].value.image
    machine = saved_machine(machine_spec(endophyte, own, facts, ()), facts)
    try:
        made, chunks = await host.images.take(
            copy.guest / saving.FILE, Image(kind=ImageKind.MEMORY, machine=machine), "memory"
        )
    except (OSError, InvalidError) as error:
        raise ConflictError(f"what QEMU saved is no memory: {error}", code="snapshot-failed") from error
    name = memory_name(record.endophyte, record.name)
    records = SnapshotRecords(host.store, host.clock)
    await records.register(record, name, made, host=host.name, chunks=chunks)
    return SnapshotMemory(image=name, size_bytes=made.size_bytes)


async def clean_up(copy: Copy) -> None:
    """Nothing is saved any more, and nothing lies in the guest's folder. Idempotent. Raises a QmpError."""
    try:
        if copy.qmp is not None and copy.is_alive and copy.state.stage is CopyStage.PAUSED:
            await saving.end(copy.session())
    finally:
        (copy.guest / saving.FILE).unlink(missing_ok=True)


def fitting(digest: str, images: Mapping[str, Image], spec: MachineSpec, facts: MachineFacts) -> Image:
    """The memory that belongs to disks that were never started. Raises RefusedError (`memory-unfit`)."""
    image = images.get(digest)
    if image is None or image.memory is None or image.machine is None:
        raise RefusedError("its saved memory is not known here any more", code="memory-unfit", hint=WAY_OUT)
    if why := difference(image.machine, saved_machine(spec, facts)):
        raise RefusedError(
            f"its saved memory does not fit this machine: {why}", code="memory-unfit", hint=WAY_OUT
        )
    return image


async def go_on(copy: Copy, image: Image) -> None:
    """Load the memory into the QEMU that awaits it, and let the guest go on. Raises as `saving.load`."""
    assert image.memory is not None
    await saving.load(copy.session(), f"{IMAGE_DIR}/{relative_path(image.memory.digest)}")
    copy.booting_since_s = None  # it has booted long ago
    await copy.reach(Step.LOAD_LOADED)
    await copy.disks.use_memory()
    await copy.reach(Step.LOAD_USED)
    await primary.resume(copy.session())
    await copy.reach(Step.LOAD_DONE)


async def let_go(copy: Copy, endophyte: Endophyte) -> None:
    """The VM needs its saved memory no more: the image may go. Tried again at the next start where it fails."""
    found = copy.host.mirror.endophytes.get(copy.name)
    if not endophyte.memory_digest or found is None or found.value.uid != endophyte.uid:
        return
    key, after = keys.endophyte(copy.name), found.value.with_(memory_digest="")
    with suppress(VdcError):
        await copy.host.store.commit([Unchanged(key, found.revision)], [Put(key, after.to_json())])
