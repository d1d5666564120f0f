"""Whether a manifest of `type: container` can be run from its image; a clear error where it cannot. Pure."""

from __future__ import annotations

from typing import Final

from vdc.model.errors import InvalidError
from vdc.model.image import Image, ImageKind
from vdc.model.manifest import ComputerType, EndophyteManifest
from vdc.model.process import EnvField, ImageProcess, Process
from vdc.model.program import guest_process
from vdc.model.units import MIB, TIB, format_size

LEAST_MEMORY_BYTES: Final = 128 * MIB  # our kernel and init beside a small program
LEAST_VOLUME_BYTES: Final = 16 * MIB  # an ext4 file system with a journal
MOST_VOLUME_BYTES: Final = 15 * TIB  # it is made in a sparse file of the host's own file system


def check_kind(manifest: EndophyteManifest, image: Image) -> None:
    """Raises InvalidError (`type-mismatch`) where the image is of another kind than the manifest's type."""
    reference = manifest.spec.image
    if image.kind is ImageKind.MEMORY:
        raise InvalidError(
            f"image {reference} is a guest's memory",
            hint="vdc snapshot restore VM NAME",
            code="type-mismatch",
        )
    is_wanted = manifest.spec.virtual_computer.type is ComputerType.CONTAINER
    if (image.kind is ImageKind.CONTAINER) is is_wanted:
        return
    if is_wanted:
        raise InvalidError(
            f"image {reference} is a {image.kind} image, and the manifest says type: container",
            hint="leave virtualComputer.type out, or import a container image: vdc image import docker://...",
            code="type-mismatch",
        )
    raise InvalidError(
        f"image {reference} is a container image, and the manifest does not say so",
        hint="virtualComputer.type: container (vdc create does that by itself)",
        code="type-mismatch",
    )


def check_container(manifest: EndophyteManifest, image: Image) -> None:
    """Raises InvalidError for what only the image shows to be wrong: no command, too little memory, volumes."""
    spec = manifest.spec
    if spec.virtual_computer.type is not ComputerType.CONTAINER:
        return
    unknown = dict.fromkeys(EnvField, "")
    guest_process(spec.process or Process(), image.process or ImageProcess(), manifest.metadata.name, unknown)
    if spec.resources.memory < LEAST_MEMORY_BYTES:
        raise InvalidError(
            f"a container needs {format_size(LEAST_MEMORY_BYTES)} of memory for its own kernel, "
            f"{format_size(spec.resources.memory)} are given",
            hint=f"--memory {format_size(LEAST_MEMORY_BYTES)}",
            code="memory-too-small",
        )
    for disk in spec.disks[1:]:
        if disk.mount_path is None:
            raise InvalidError(
                f"disk {disk.name} is a container's further disk and has no mountPath",
                code="mount-path-missing",
            )
        if disk.size is not None and not LEAST_VOLUME_BYTES <= disk.size <= MOST_VOLUME_BYTES:
            least, most = format_size(LEAST_VOLUME_BYTES), format_size(MOST_VOLUME_BYTES)
            raise InvalidError(
                f"disk {disk.name}: a volume has {least} to {most}, not {format_size(disk.size)}",
                code="volume-size",
            )
