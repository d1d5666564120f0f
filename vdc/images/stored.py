"""A second look at an image's disk, by the host that holds it: who registers an image may not be our own program."""

from __future__ import annotations

from vdc.images.blobs import BlobStore
from vdc.images.inspect import HEADER_BYTES, inspect_disk
from vdc.model.errors import InvalidError
from vdc.model.image import Image


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
