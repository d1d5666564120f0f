"""Container images: from registries, layouts and archives (`vdc.images.oci`).

One that carries a VM's disk (containerDisk) goes on as that disk does. Any other one becomes a disk with the image's
files, which the cluster's kernel for containers boots.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from vdc.images.oci.importing import CarriedDisk, PushedImage, import_container
from vdc.images.oci.pushed import LABEL
from vdc.images.oci.source import is_container_source, parse_source
from vdc.images.sources.disk import prepare
from vdc.images.sources.plan import ImportOptions, ImportPlan, hash_file
from vdc.model.errors import InvalidError, NotFoundError
from vdc.model.image import Image, ImageKind

__all__ = ["KERNEL_IMAGE", "is_container_source", "plan_container"]

KERNEL_IMAGE = "mycelium/container:latest"


def plan_container(text: str, options: ImportOptions, owned: ExitStack) -> ImportPlan:
    """Plan the import of such a source; what it needs until then goes into `owned`.

    Raises NotFoundError (`container-kernel-missing`), InvalidError (`source-unsupported`), as `import_container` and
    `prepare`.
    """
    source = parse_source(text)
    reference = options.reference(otherwise=source.name) if options.name or source.name else ""
    if not reference:
        raise InvalidError(
            "nothing says what the image is to be called",
            hint="choose a name with --name",
            code="image-ref-invalid",
        )

    def need_kernel(labels: Mapping[str, object]) -> None:
        if not options.is_container_disk and LABEL not in labels:
            _kernel(options)

    made = import_container(
        source, options.registry, owned, options.progress,
        is_disk=options.is_container_disk, inspected=need_kernel,
    )  # fmt: skip
    if isinstance(made, CarriedDisk):
        return (
            prepare(made.path, options, owned)
            .plan(reference)
            .noting(f"the disk /disk/{made.name} of the image")
        )
    if options.disk_format or options.firmware or options.disk:
        raise InvalidError(
            "--format, --firmware and --disk are for disks, and this is the image of a program, or one that was pushed",
            hint="where its only file is a disk in /disk, say so: --container-disk",
            code="source-unsupported",
        )
    if isinstance(made, PushedImage):
        return ImportPlan(reference, made.image, made.files)
    kernel = _kernel(options)
    blob = hash_file(made.path, options.progress, "reading the disk")
    image = Image(
        kind=ImageKind.CONTAINER,
        disk=blob,
        disk_format="qcow2",
        disk_virtual_bytes=made.virtual_bytes,
        kernel=kernel.kernel,
        initrd=kernel.initrd,
        cmdline=kernel.cmdline,
        min_memory_bytes=kernel.min_memory_bytes,
        process=made.process,
    )
    return ImportPlan(reference, image, ((blob, made.path),), made.notes)


def _kernel(options: ImportOptions) -> Image:
    """What boots containers in this cluster. Asked before layers are fetched: without it all of that is in vain."""
    found = options.find_image(KERNEL_IMAGE)
    if found is None or found.kernel is None or found.initrd is None:
        raise NotFoundError(
            f"this cluster has no image {KERNEL_IMAGE}, whose kernel boots containers",
            hint="vdc image import /var/cache/vdc/images/container/current (make image-container builds it); an image "
            "that carries a VM's disk needs none: --container-disk",
            code="container-kernel-missing",
        )
    return found
