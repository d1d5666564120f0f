"""QEMU's own format, read strictly: what is taken as it is, is opened by every host.

Format: QEMU's docs/interop/qcow2.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vdc.images.formats.problems import FLATTEN, MAX_VIRTUAL_BYTES, unsafe
from vdc.model.errors import InvalidError

MAGIC = b"QFI\xfb"
_EXTENSION_END, _EXTENSION_DATA_FILE, _EXTENSION_LUKS = 0, 0x44415441, 0x0537BE77
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = 1, 2, 4, 8, 16
_MAX_L1_BYTES, _MAX_REFCOUNT_TABLE_BYTES = 32 * 1024**2, 8 * 1024**2  # QEMU's own (block/qcow2.h)
_MAX_REFCOUNT_ORDER = 6


def check_qcow2(header: bytes, file_bytes: int) -> int:
    """Refuse every qcow2 that is more than one plain file; returns the virtual size."""
    if len(header) < 104:
        header = header.ljust(104, b"\0")
    version, backing_offset, _, cluster_bits, virtual_bytes, encryption = struct.unpack_from(
        ">IQIIQI", header, 4
    )
    if version not in (2, 3):
        raise InvalidError(
            f"qcow version {version} is not imported directly", hint=FLATTEN, code="image-format-unsupported"
        )
    if backing_offset:
        raise _unsafe("it has a backing file", FLATTEN)
    if encryption:
        raise _unsafe("it is encrypted", "decrypt it with qemu-img convert")
    features = struct.unpack_from(">Q", header, 72)[0] if version == 3 else 0
    header_bytes = struct.unpack_from(">I", header, 100)[0] if version == 3 else 72
    if features & _DATA_FILE:
        raise _unsafe("it keeps its content in an external data file", FLATTEN)
    if features & _CORRUPT:
        raise _unsafe("it is marked as corrupt", "repair it: qemu-img check -r all FILE")
    if features & _DIRTY:
        raise _unsafe("it was not closed cleanly", "repair it: qemu-img check -r all FILE")
    if features & ~(_COMPRESSION | _EXTENDED_L2):
        raise _unsafe(f"it needs unknown features ({features:#x})", FLATTEN)
    if not 9 <= cluster_bits <= 21:
        raise _unsafe(f"its cluster size is 2^{cluster_bits}", FLATTEN)
    _check_extensions(header, header_bytes, 1 << cluster_bits)
    if not 0 < virtual_bytes <= MAX_VIRTUAL_BYTES or file_bytes < header_bytes:
        raise _unsafe(f"its header says {virtual_bytes} bytes", "is the file cut off?")
    _check_tables(header, file_bytes, cluster_bits, virtual_bytes, version)
    return int(virtual_bytes)


def _check_tables(
    header: bytes, file_bytes: int, cluster_bits: int, virtual_bytes: int, version: int
) -> None:
    """Its tables lie in the file, are large enough for its size, and no larger than QEMU reads."""
    l1_entries, l1_place, refcount_place, refcount_clusters, snapshots = struct.unpack_from(
        ">IQQII", header, 36
    )
    if snapshots:
        raise _unsafe(f"it has {snapshots} internal snapshots", "delete them: qemu-img snapshot -d NAME FILE")
    cluster_bytes = 1 << cluster_bits
    entry_bytes = 16 if struct.unpack_from(">Q", header, 72)[0] & _EXTENDED_L2 and version == 3 else 8
    covered_bytes = cluster_bytes * (cluster_bytes // entry_bytes)  # by one entry of the L1 table
    tables = (
        ("L1", l1_place, l1_entries * 8, -(-virtual_bytes // covered_bytes) * 8, _MAX_L1_BYTES),
        ("refcount", refcount_place, refcount_clusters << cluster_bits, 8, _MAX_REFCOUNT_TABLE_BYTES),
    )
    for name, place, size_bytes, least_bytes, most_bytes in tables:
        lies_within = cluster_bytes <= place <= file_bytes - size_bytes and not place % cluster_bytes
        if not (lies_within and least_bytes <= size_bytes <= most_bytes):
            raise _unsafe(
                f"its {name} table does not fit into it", "is the file cut off? qemu-img check FILE"
            )
    if version == 3 and struct.unpack_from(">I", header, 96)[0] > _MAX_REFCOUNT_ORDER:
        raise _unsafe("its reference counts are too wide", FLATTEN)


def _check_extensions(header: bytes, header_bytes: int, cluster_bytes: int) -> None:
    for kind in _extensions(header, header_bytes, cluster_bytes):
        if kind == _EXTENSION_DATA_FILE:
            raise _unsafe("it names an external data file", FLATTEN)
        if kind == _EXTENSION_LUKS:
            raise _unsafe("it is encrypted", "decrypt it with qemu-img convert")


def _extensions(header: bytes, place: int, cluster_bytes: int) -> Iterator[int]:
    """Kinds of the header extensions; they lie in the first cluster."""
    end = min(len(header), cluster_bytes)
    if place % 8 or not 72 <= place <= end:
        raise _unsafe(f"its header says that it has {place} bytes", "is the file damaged?")
    while place + 8 <= end:
        kind, length = struct.unpack_from(">II", header, place)
        if kind == _EXTENSION_END:
            return
        yield kind
        place += 8 + (length + 7) // 8 * 8
    raise _unsafe("its header extensions have no end", FLATTEN)


def _unsafe(reason: str, hint: str) -> InvalidError:
    return unsafe("qcow2", reason, hint)
