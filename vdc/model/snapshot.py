"""A snapshot: the disks of a VM, and its memory where it stood still, as images of the image store."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from pydantic import Field

from vdc.model.base import Record
from vdc.model.ids import DnsLabel
from vdc.model.manifest import EndophyteManifest

IMAGE_PREFIX: Final = "snapshots/"  # images whose names begin like this belong to a snapshot


class SnapshotState(StrEnum):
    """Whether it can be used."""

    MAKING = "making"
    READY = "ready"


class SnapshotDisk(Record):
    """One disk. `image`: its name in the image store; empty while the snapshot is made."""

    name: str
    virtual_bytes: int
    image: str = ""
    size_bytes: int = 0


class SnapshotMemory(Record):
    """What the guest had in memory at that moment. `image`: as of a disk."""

    image: str = ""
    size_bytes: int = 0


class Snapshot(Record):
    """What `vdc snapshot` makes. It outlives the VM, whose manifest it keeps (with secrets: mask it to show it)."""

    name: DnsLabel
    endophyte: DnsLabel
    uid: str  # of the VM
    state: SnapshotState = SnapshotState.MAKING
    host: str  # where it was taken
    epoch: int = 0
    created_at: str
    is_quiesced: bool = False  # the guest's file systems were frozen for the moment
    was_running: bool = True
    disks: tuple[SnapshotDisk, ...] = ()
    memory: SnapshotMemory | None = None
    manifest: EndophyteManifest = Field(repr=False)

    @property
    def images(self) -> tuple[str, ...]:
        """Names of its images, also of those that are not there yet."""
        names = [image_name(self.endophyte, self.name, number) for number in range(len(self.disks))]
        return (*names, *([memory_name(self.endophyte, self.name)] if self.memory else []))

    @property
    def size_bytes(self) -> int:
        """Of all its images' files."""
        memory_bytes = self.memory.size_bytes if self.memory else 0
        return sum(disk.size_bytes for disk in self.disks) + memory_bytes


def image_name(endophyte: str, snapshot: str, disk: int) -> str:
    """The name of the image that a disk becomes."""
    further = f"/disk{disk}" if disk else ""
    return f"{IMAGE_PREFIX}{endophyte}{further}:{snapshot}"


def memory_name(endophyte: str, snapshot: str) -> str:
    """The name of the image that the memory becomes."""
    return f"{IMAGE_PREFIX}{endophyte}/memory:{snapshot}"


def is_of_snapshot(image: str) -> bool:
    """Whether an image's name belongs to a snapshot, which alone gives and takes it."""
    return image.startswith(IMAGE_PREFIX)


def made_of(
    before: EndophyteManifest, name: str, kept: Sequence[tuple[int, str]], *, keep_addresses: bool = False
) -> EndophyteManifest:
    """What a VM is like that begins with another one's disks: of each the size and the image, the first one first.

    Addresses and MACs that the manifest fixes are those of that VM; another one gets its own.
    """
    disks = [
        given.with_(size=size_bytes, image=image if number else None)
        for number, (given, (size_bytes, image)) in enumerate(zip(before.spec.disks, kept, strict=False))
    ]
    networks = before.spec.networks
    if not keep_addresses:
        networks = tuple(port.with_(address=None, mac=None, allowed_addresses=()) for port in networks)
    spec = before.spec.with_(image=kept[0][1], disks=tuple(disks), networks=networks)
    return before.with_(metadata=before.metadata.with_(name=name), spec=spec)
