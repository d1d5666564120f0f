"""Which of a VM's disks is what: the image's own comes first, then the manifest's further ones. Pure."""

from __future__ import annotations

from vdc.model.image import Image
from vdc.model.manifest import Disk, EndophyteSpec


def own_disk(spec: EndophyteSpec, image: Image) -> Disk | None:
    """What the manifest says of the image's own disk: its first one, unless that is mounted somewhere."""
    if image.disk is None or not spec.disks or spec.disks[0].mount_path is not None:
        return None
    return spec.disks[0]


def further_disks(spec: EndophyteSpec, image: Image) -> tuple[Disk, ...]:
    """The disks beside the image's own."""
    return spec.disks if own_disk(spec, image) is None else spec.disks[1:]


def first_further(image: Image) -> int:
    """The number of the first of them, as the guest counts its disks."""
    return 0 if image.disk is None else 1


def unmounted_volumes(spec: EndophyteSpec, image: Image) -> tuple[str, ...]:
    """The folders that a container image wants on a volume, and the manifest leaves on the root disk."""
    mounted = {disk.mount_path for disk in further_disks(spec, image)}
    return tuple(path for path in (image.process.volumes if image.process else ()) if path not in mounted)
