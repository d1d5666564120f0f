"""Targets for what stands in a repository of backups, and for what an agent and a host's disk say on the way there."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress

from vdc.api.backups import PartKind, head_of, read_parts
from vdc.backup.record import CHUNK_BYTES, Backup, BackupDisk
from vdc.backup.repository import _unpacked
from vdc.backup.storage import checked_key
from vdc.images.content import BytesContent
from vdc.images.extents import Qcow2Map
from vdc.model.errors import BugError, InvalidError, UnavailableError
from vdc.model.image import Image, ImageKind
from vdc.model.manifest import EndophyteManifest

_MANIFEST = {
    "apiVersion": "mycelium.network/v1",
    "kind": "Endophyte",
    "metadata": {"name": "a"},
    "spec": {"image": "m"},
}
_CLUSTER = 65_536


def description(data: bytes) -> None:
    with suppress(InvalidError):
        found = Backup.from_text(data, "it")
        assert all(checked_key(f"chunks/{chunk}") for chunk in found.chunks)


def chunk(data: bytes) -> None:
    found = _unpacked(data)
    assert found is None or len(found) <= CHUNK_BYTES


def parts(data: bytes) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield data

    async def read() -> None:
        end = 0
        async for part in read_parts(pieces(), 0, 1 << 30):
            assert part.offset >= end and len(part.data) in (0, part.length)
            end = part.offset + part.length

    with suppress(BugError, UnavailableError):
        asyncio.run(read())


def disk_map(data: bytes) -> None:
    with suppress(InvalidError):
        disk = Qcow2Map(BytesContent(data))
        for first in (0, disk.virtual_bytes - 1):
            for extent in disk.extents(first, 1 << 20):
                assert extent.length > 0 and extent.offset + extent.length <= disk.virtual_bytes
                assert extent.place is None or extent.place + extent.length <= len(data)


def _backup() -> bytes:
    disk = BackupDisk(name="root", virtual_bytes=CHUNK_BYTES + 1, chunks=("ab" * 32, ""))
    return Backup(
        id="20260131-235959-0a1b", endophyte="web", uid="u", created_at="2026-01-31T23:59:59Z", disks=(disk,),
        image=Image(kind=ImageKind.DISK), manifest=EndophyteManifest.model_validate(_MANIFEST),
    ).to_text().encode()  # fmt: skip


def _disk() -> bytes:
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, 1 << 20, 0, 1, _CLUSTER, 2 * _CLUSTER, 1, 0, 0
    )
    head = (head + struct.pack(">QQQII", 0, 0, 0, 4, 104)).ljust(_CLUSTER, b"\0")
    entries = b"".join(number.to_bytes(8, "big") for number in (1 << 63 | 4 * _CLUSTER, 0, 1))
    tables = (3 * _CLUSTER).to_bytes(8, "big").ljust(2 * _CLUSTER, b"\0") + entries.ljust(_CLUSTER, b"\0")
    return head + tables + bytes(_CLUSTER)


TARGETS = (
    ("backup", description, (_backup(),)),
    ("backup-chunk", chunk, (b"\x00abc", b"\x01" + zlib.compress(b"abc"))),
    (
        "backup-parts",
        parts,
        (
            head_of(PartKind.DATA, 0, 3)
            + b"abc"
            + head_of(PartKind.ZEROS, 9, 9)
            + head_of(PartKind.END, 1 << 30),
        ),
    ),
    ("disk-map", disk_map, (_disk(),)),
)
