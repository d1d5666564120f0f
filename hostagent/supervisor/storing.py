"""What was copied of a VM becomes images; every host fetches them from here."""

from __future__ import annotations

from hostagent.drivers.qemu.snapshots import SnapshotPlan
from hostagent.supervisor import remembering
from hostagent.supervisor.copy import Copy
from vdc.control.snapshots import SnapshotRecords
from vdc.model.endophyte import Endophyte
from vdc.model.errors import ConflictError, InvalidError
from vdc.model.image import Image, ImageKind
from vdc.model.snapshot import Snapshot, SnapshotDisk, SnapshotMemory, image_name


async def store(
    copy: Copy, endophyte: Endophyte, record: Snapshot
) -> tuple[list[SnapshotDisk], SnapshotMemory | None]:
    """Make images of the copies, and of the memory where it is kept.

    Raises ConflictError (`snapshot-failed`), FencedError where the snapshot was taken away meanwhile.
    """
    host, plan = copy.host, SnapshotPlan(len(record.disks))
    own = host.mirror.images[endophyte.image_digest].value.image
    records = SnapshotRecords(host.store, host.clock)
    disks = []
    for i, disk in enumerate(record.disks):
        form = own if i == 0 else Image(kind=ImageKind.DISK)
        wanted = form.with_(disk_format="qcow2", disk_virtual_bytes=disk.virtual_bytes)
        try:
            made, chunks = await host.images.take(copy.guest / plan.file(i), wanted)
        except (OSError, InvalidError) as error:
            raise ConflictError(f"what QEMU copied is no disk: {error}", code="snapshot-failed") from error
        name = image_name(record.endophyte, record.name, i)
        await records.register(record, name, made, host=host.name, chunks=chunks)
        assert made.disk is not None
        disks.append(disk.with_(image=name, size_bytes=made.disk.size_bytes))
    memory = await remembering.store(copy, endophyte, record) if record.memory else None
    return disks, memory
