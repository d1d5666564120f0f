"""A second look at an image's disk, by the host that holds it: who registers an image may not be our own program."""

from __future__ import annotations

import re

from vdc.images.blobs import BlobStore
from vdc.images.inspect import HEADER_BYTES, inspect_disk
from vdc.images.process import fault_of
from vdc.model.errors import InvalidError
from vdc.model.image import Image, ImageKind

_MAX_CMDLINE = 2_000  # the kernel takes 2048 (COMMAND_LINE_SIZE), and more is added to it
_NEEDED = {
    ImageKind.KERNEL: ("kernel",),
    ImageKind.DISK: ("disk",),
    ImageKind.CONTAINER: ("disk", "kernel", "initrd"),
    ImageKind.MEMORY: ("memory", "machine"),
}
_ARCH = re.compile(r"[a-z0-9_]{1,32}")


def check_image(blobs: BlobStore, image: Image) -> None:
    """Refuse an image whose description or files are not what a guest can be started from.

    Raises InvalidError (`image-invalid`), and as `check_disk_blob`.
    """
    if not _ARCH.fullmatch(image.arch):
        raise InvalidError(f"{image.arch[:40]!r} is no architecture", code="image-invalid")
    if len(image.cmdline) > _MAX_CMDLINE or not (image.cmdline.isprintable() and image.cmdline.isascii()):
        raise InvalidError(
            f"the kernel's command line has to be at most {_MAX_CMDLINE} printable characters",
            code="image-invalid",
        )
    for part in _NEEDED[image.kind]:
        if getattr(image, part) is None:
            raise InvalidError(f"an image of kind {image.kind} needs a {part}", code="image-invalid")
    if image.process is not None and (fault := fault_of(image.process)):
        raise InvalidError(f"the image's program makes no sense: {fault}", code="image-invalid")
    for blob in image.blobs:
        size_bytes = blobs.path(blob.digest).stat().st_size
        if size_bytes != blob.size_bytes:
            raise InvalidError(
                f"blob {blob.digest[:19]} has {size_bytes} bytes, announced were {blob.size_bytes}",
                code="image-invalid",
            )
    check_disk_blob(blobs, image)


def check_disk_blob(blobs: BlobStore, image: Image) -> None:
    """Refuse a disk that is not what the image says, or more than one plain file. Reads its first bytes.

    Raises as `inspect_disk`, and InvalidError (`image-unsafe`) for another virtual size than announced.
    """
    if image.disk is None:
        return
    with blobs.open(image.disk.digest) as file:
        header = file.read(HEADER_BYTES)
    facts = inspect_disk(header, image.disk.size_bytes, image.disk_format)
    if image.disk_virtual_bytes not in (0, facts.virtual_bytes):
        raise InvalidError(
            f"the disk has {facts.virtual_bytes} bytes, announced were {image.disk_virtual_bytes}",
            code="image-unsafe",
        )
