"""The disks of a domain as images: taken as they are where that is possible, else as one flat copy.

The originals are only ever read, and looked at once more when everything is done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vdc.images.chain import Link, follow
from vdc.images.flatten import flatten
from vdc.images.progress import Progress
from vdc.images.scratch import Scratch
from vdc.images.sources import ImportOptions, ImportPlan
from vdc.images.sources.disk import plan_disk
from vdc.images.sources.plan import hash_file
from vdc.interchange.computer import DirectKernel
from vdc.interchange.incoming import DiskToImport
from vdc.model.errors import NotFoundError
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.manifest import Firmware


@dataclass(frozen=True, slots=True)
class Content:
    """One disk, and the files that it consists of."""

    disk: DiskToImport
    links: tuple[Link, ...]

    @property
    def is_flattened(self) -> bool:
        """Whether a copy is made of it: it is spread over files, holds older states, or is no file."""
        return len(self.links) > 1 or self.links[0].has_snapshots or self.links[0].is_device

    def __str__(self) -> str:
        return " over ".join(f"{link.path} ({link.format})" for link in self.links)


def find_contents(disks: Sequence[DiskToImport], backing: Collection[Path] = ()) -> tuple[Content, ...]:
    """Look at all disks before anything is read. `backing`: files that may lie below others wherever they are.

    Without that a file below another one is taken where the XML names it, or where it lies in the same folder.
    Raises as `vdc.images.chain.follow`.
    """
    allowed = {path.resolve() for path in backing}

    def may_read(upper: Path, lower: Path) -> bool:
        return lower in allowed or lower.parent == upper.parent

    return tuple(
        Content(
            disk,
            follow(
                Path(disk.file.path),
                disk.file.format,
                stated=[(Path(lower.path), lower.format) for lower in disk.stated_backing],
                may_read=may_read,
            ),
        )
        for disk in disks
    )


@contextmanager
def plan_content(
    content: Content, progress: Progress, firmware: Firmware | None = None
) -> Iterator[ImportPlan]:
    """The image of one disk. Blocks; good for the time of the `with`. Raises as `plan_import` and `flatten`."""
    top = content.links[0]
    options = ImportOptions(
        name=content.disk.name, disk_format=top.format, firmware=firmware, progress=progress
    )
    with ExitStack() as owned:
        path = top.path
        if content.is_flattened:
            scratch = owned.enter_context(Scratch())
            path = flatten(content.links, scratch, progress, f"copying {top.path.name}")
            options = replace(options, disk_format="qcow2")
        yield plan_disk(path, options, owned)


def plan_kernel(name: str, kernel: DirectKernel, disk: ImportPlan | None, progress: Progress) -> ImportPlan:
    """The image of a kernel that is given to QEMU as a file, with the first disk beside it."""
    blobs: list[tuple[Blob, Path]] = []
    for text in (kernel.kernel, kernel.initrd):
        path = Path(text)
        if not path.is_file():
            raise NotFoundError(f"there is no file {text[:200]}", code="disk-not-found")
        blobs.append((hash_file(path, progress), path))
    image = Image(
        kind=ImageKind.KERNEL,
        kernel=blobs[0][0],
        initrd=blobs[1][0],
        cmdline=kernel.cmdline,
        disk=disk.image.disk if disk else None,
        disk_format=disk.image.disk_format if disk else "qcow2",
        disk_virtual_bytes=disk.image.disk_virtual_bytes if disk else 0,
    )
    return ImportPlan(name, image, (*(disk.files if disk else ()), *blobs))
