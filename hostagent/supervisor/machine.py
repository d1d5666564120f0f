"""From an Endophyte, its image and this host to the machine that QEMU is started with. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hostagent.drivers.disk.copy import DiskSource
from hostagent.drivers.net import tap_name
from hostagent.drivers.qemu.spec import IMAGE_DIR, DiskBoot, DiskSpec, KernelBoot, MachineSpec, NicSpec
from vdc.images.blobs import relative_path
from vdc.model.endophyte import Endophyte, MachineFacts
from vdc.model.image import Blob, Image, ImageKind


def machine_spec(
    endophyte: Endophyte, image: Image, facts: MachineFacts, disks: Sequence[DiskSpec]
) -> MachineSpec:
    """The machine; the same on both hosts of a pair but for the names of taps and disk files."""
    spec = endophyte.manifest.spec
    return MachineSpec(
        name=endophyte.name,
        uid=endophyte.uid,
        cpus=spec.resources.cpus,
        memory_bytes=_whole_mib(spec.resources.memory),
        boot=_boot(endophyte, image),
        disks=tuple(disks),
        nics=tuple(
            NicSpec(ifname=tap_name(endophyte.uid, index), mac=nic.mac)
            for index, nic in enumerate(endophyte.nics)
        ),
        accelerator="kvm" if facts.accelerator == "kvm" else "tcg",
        cpu_model=facts.cpu_model,
        firmware=endophyte.firmware,
        tpm=spec.tpm,
        display=spec.display,
    )


def disk_sources(endophyte: Endophyte, images: Mapping[str, Image]) -> tuple[DiskSource, ...]:
    """What each disk of a new VM begins with: the image's own first, then what the manifest's others name, or nothing.

    `images`: all of `endophyte.image_digests`.
    """
    digests = (*endophyte.disk_image_digests, *("" for _ in endophyte.manifest.spec.disks))
    given = [
        (disk.size, digest) for disk, digest in zip(endophyte.manifest.spec.disks, digests, strict=False)
    ]
    if images[endophyte.image_digest].disk is not None:
        size_bytes = given.pop(0)[0] if given else None
        given.insert(0, (size_bytes, endophyte.image_digest))
    return tuple(_source(size_bytes, images[digest] if digest else None) for size_bytes, digest in given)


def _source(size_bytes: int | None, image: Image | None) -> DiskSource:
    if image is None or image.disk is None:
        return DiskSource(size_bytes)
    return DiskSource(size_bytes, relative_path(image.disk.digest), image.disk_format)


def _boot(endophyte: Endophyte, image: Image) -> KernelBoot | DiskBoot:
    if image.kind is ImageKind.DISK or image.kernel is None or image.initrd is None:
        return DiskBoot()
    return KernelBoot(
        kernel=_in_sandbox(image.kernel),
        initrd=_in_sandbox(image.initrd),
        cmdline=f"{image.cmdline} vdc.hostname={endophyte.name}".strip(),
    )


def _in_sandbox(blob: Blob) -> str:
    return f"{IMAGE_DIR}/{relative_path(blob.digest)}"


def _whole_mib(size_bytes: int) -> int:
    return (size_bytes + 2**20 - 1) // 2**20 * 2**20
