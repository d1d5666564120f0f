"""The names in a folder of a FAT file system: for EFI/BOOT of an EFI system partition. Pure.

Format: Microsoft's "FAT: General Overview of On-Disk Format". Short names alone: those that firmware looks for are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vdc.images.content import Content

_ENTRY_BYTES = 32
_MAX_CLUSTERS, _MAX_FOLDER_BYTES = 64, 1 << 20  # some ten thousand names
_LONG_NAME, _VOLUME, _FOLDER = 0x0F, 0x08, 0x10
_MAX_12, _MAX_16 = 4085, 65525  # clusters; below: FAT12, FAT16


@dataclass(frozen=True, slots=True)
class _Shape:
    bits: int  # of an entry of the table
    cluster_bytes: int
    table_place: int
    root_place: int  # FAT12 and FAT16: where the root folder lies
    root_bytes: int
    root_cluster: int  # FAT32: where it begins
    data_place: int


def list_folder(volume: Content, *path: str) -> tuple[str, ...] | None:
    """Names in a folder, upper case, as `BOOTX64.EFI`; None where it is no FAT or there is no such folder."""
    shape = _shape(volume.read(0, 512))
    if shape is None:
        return None
    entries = list(_entries(_root(volume, shape)))
    for wanted in path:
        clusters = [cluster for name, cluster, is_folder in entries if is_folder and name == wanted]
        if not clusters:
            return None
        entries = list(_entries(_chain(volume, shape, clusters[0])))
    return tuple(name for name, _, _ in entries)


def _shape(sector: bytes) -> _Shape | None:
    if len(sector) < 512 or sector[510:512] != b"\x55\xaa":
        return None
    sector_bytes, per_cluster, reserved, tables, root_entries, small_total = struct.unpack_from(
        "<HBHBHH", sector, 11
    )
    small_table, total, table, root_cluster = (
        struct.unpack_from("<H", sector, 22)[0], struct.unpack_from("<I", sector, 32)[0],
        struct.unpack_from("<I", sector, 36)[0], struct.unpack_from("<I", sector, 44)[0],
    )  # fmt: skip
    table, total = small_table or table, small_total or total
    if sector_bytes not in (512, 1024, 2048, 4096) or not per_cluster or not reserved or tables not in (1, 2):
        return None
    root_sectors = -(-root_entries * _ENTRY_BYTES // sector_bytes)
    data = reserved + tables * table + root_sectors
    clusters = (total - data) // per_cluster
    bits = 12 if clusters < _MAX_12 else 16 if clusters < _MAX_16 else 32
    root = (reserved + tables * table) * sector_bytes
    return _Shape(
        bits, per_cluster * sector_bytes, reserved * sector_bytes, root,
        root_entries * _ENTRY_BYTES, root_cluster, data * sector_bytes,
    )  # fmt: skip


def _root(volume: Content, shape: _Shape) -> bytes:
    if shape.bits == 32:
        return _chain(volume, shape, shape.root_cluster)
    return volume.read(shape.root_place, shape.root_bytes)


def _chain(volume: Content, shape: _Shape, cluster: int) -> bytes:
    """The content of a chain of clusters, which may run in circles: as far as a folder may go."""
    found = b""
    for _ in range(_MAX_CLUSTERS):
        if not 2 <= cluster < (1 << min(shape.bits, 28)) - 16 or len(found) >= _MAX_FOLDER_BYTES:
            break
        found += volume.read(shape.data_place + (cluster - 2) * shape.cluster_bytes, shape.cluster_bytes)
        cluster = _next(volume, shape, cluster)
    return found


def _next(volume: Content, shape: _Shape, cluster: int) -> int:
    place = shape.table_place + cluster * shape.bits // 8
    entry = int.from_bytes(volume.read(place, 4), "little")
    if shape.bits == 12:
        return (entry >> 4 if cluster & 1 else entry) & 0xFFF
    return entry & (0xFFFF if shape.bits == 16 else 0x0FFFFFFF)


def _entries(folder: bytes) -> Iterator[tuple[str, int, bool]]:
    """(name, first cluster, whether it is a folder)"""
    for at in range(0, len(folder) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
        entry = folder[at : at + _ENTRY_BYTES]
        if entry[0] == 0:
            return
        attributes = entry[11]
        if entry[0] == 0xE5 or attributes == _LONG_NAME or attributes & _VOLUME:
            continue
        stem, extension = (part.decode("ascii", "replace").rstrip() for part in (entry[:8], entry[8:11]))
        high, low = struct.unpack_from("<H", entry, 20)[0], struct.unpack_from("<H", entry, 26)[0]
        name = f"{stem}.{extension}" if extension else stem
        yield name.upper(), high << 16 | low, bool(attributes & _FOLDER)
