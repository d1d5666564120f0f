"""An image: named content, immutable, addressed by the digest of its description."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from vdc.model.base import Record
from vdc.model.manifest import Firmware
from vdc.model.memory import SavedMachine
from vdc.model.process import ImageProcess


class ImageKind(StrEnum):
    """How a guest boots from it."""

    KERNEL = "kernel"  # kernel and initrd given to QEMU, a disk beside them
    DISK = "disk"  # the firmware boots the disk
    CONTAINER = (
        "container"  # kernel and initrd of ours boot the disk, a container image's files, and run its program
    )
    MEMORY = "memory"  # of a snapshot: what a guest goes on with, on that snapshot's disks


class Blob(Record):
    """One file of an image."""

    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class Image(Record):
    """The description that an image's digest is taken of (sha256 of its canonical JSON without `names`)."""

    kind: ImageKind
    arch: str = "x86_64"
    disk: Blob | None = None
    disk_format: str = "qcow2"
    disk_virtual_bytes: int = 0
    kernel: Blob | None = None
    initrd: Blob | None = None
    cmdline: str = ""
    min_memory_bytes: int = 0
    firmware: Firmware | None = None  # what boots the disk, where the disk says so
    process: ImageProcess | None = None  # of a container image
    memory: Blob | None = None  # QEMU's migration stream of a guest that stood still
    machine: SavedMachine | None = None  # that the memory was saved of

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Every file of the image."""
        return tuple(blob for blob in (self.disk, self.kernel, self.initrd, self.memory) if blob)

    @property
    def size_bytes(self) -> int:
        """Of all its files; one that is there twice counts once."""
        return sum({blob.digest: blob.size_bytes for blob in self.blobs}.values())


class ImageEntry(Record):
    """An image under its names, with the hosts that hold all of it.

    `chunks`: the digest of the chunk list (vdc.images.chunks) of each blob that has more than one chunk. They were
    taken by the host where the image was registered, of content that it had verified.
    """

    digest: str
    image: Image
    names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    chunks: dict[str, str] = Field(default_factory=dict)
    source: str = ""  # where it was imported from, as whoever did it said
    created_at: str = ""
