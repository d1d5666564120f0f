"""What a disk file is, from its first bytes, read by us; QEMU is never asked to guess.

A guest can write any header into its own raw disk: a program that probes formats then follows a "backing
file" to whatever the header names. So: the format is named once, at import, and a file that refers to other
files, or that nobody can read without a key, is refused. Pure: bytes in, facts out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vdc.model.errors import InvalidError

HEADER_BYTES = 64 * 1024  # that `inspect_disk` wants to see, where the file has so many

_QCOW2_MAGIC = b"QFI\xfb"
_EXTENSION_END, _EXTENSION_DATA_FILE, _EXTENSION_LUKS = 0, 0x44415441, 0x0537BE77
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = 1, 2, 4, 8, 16
_MAX_VIRTUAL_BYTES = 64 * 1024**4
_MAX_L1_BYTES, _MAX_REFCOUNT_TABLE_BYTES = 32 * 1024**2, 8 * 1024**2  # QEMU's own (block/qcow2.h)
_MAX_REFCOUNT_ORDER = 6

# (format, place, magic) of what is recognised and not taken as it is.
_FOREIGN = (
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vhd", 0, b"conectix"),
    ("vhdx", 0, b"vhdxfile"),
    ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ("qed", 0, b"QED\x00"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("bochs", 0, b"Bochs Virtual HD Image\0"),
    ("cloop", 0, b"#!/bin/sh\n#V2.0 Format"),
    ("luks", 0, b"LUKS\xba\xbe"),
    ("gzip", 0, b"\x1f\x8b"),
    ("xz", 0, b"\xfd7zXZ\x00"),
    ("zstd", 0, b"\x28\xb5\x2f\xfd"),
)


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A disk file that may be used. `virtual_bytes`: what the guest sees."""

    format: str
    virtual_bytes: int


def inspect_disk(header: bytes, file_bytes: int, wanted: str | None = None) -> DiskFacts:
    """Tell format and size; `header` is the file's beginning, `wanted` what the user said it is.

    Raises `InvalidError`: `image-unsafe` (refers to other files, encrypted, damaged),
    `image-format-unsupported` (recognised and not taken), `image-format-unknown` (say which it is),
    `image-format-mismatch`.
    """
    found = detect_format(header)
    if wanted not in (None, "qcow2", "raw"):
        raise _unsupported(str(wanted))
    if found not in (None, "qcow2", "raw") and wanted is None:
        raise _unsupported(str(found))
    if found is None and wanted is None:
        raise InvalidError(
            "the file is no qcow2 and has no boot sector",
            hint="say what it is: --format raw",
            code="image-format-unknown",
        )
    fits = {None: True, "qcow2": found == "qcow2", "raw": found in (None, "raw")}
    if not fits[wanted]:
        raise InvalidError(
            f"the file is not {wanted}: its first bytes are those of {found or 'something else'}",
            hint="leave --format out, or convert the file with qemu-img convert",
            code="image-format-mismatch",
        )
    if found == "qcow2":
        return DiskFacts("qcow2", _check_qcow2(header, file_bytes))
    if file_bytes == 0 or file_bytes % 512:
        raise InvalidError(
            f"a raw disk is a number of 512-byte sectors; this file has {file_bytes} bytes",
            hint="is it compressed or cut off?",
            code="image-unsafe",
        )
    return DiskFacts("raw", file_bytes)


def detect_format(header: bytes) -> str | None:
    """`qcow2`, `raw` (it has a boot sector), the name of a foreign format, or None."""
    if header.startswith(_QCOW2_MAGIC):
        return "qcow2"
    for name, place, magic in _FOREIGN:
        if header[place : place + len(magic)] == magic:
            return name
    if _is_vmdk_descriptor(header):
        return "vmdk"
    return "raw" if header[510:512] == b"\x55\xaa" else None


def _is_vmdk_descriptor(header: bytes) -> bool:
    """As QEMU probes one: its first line that is neither empty nor a comment begins with a version."""
    lines = (line.strip() for line in header[:4096].splitlines())
    return next((line for line in lines if line and not line.startswith(b"#")), b"").startswith(b"version=")


def _check_qcow2(header: bytes, file_bytes: int) -> int:
    """Refuse every qcow2 that is more than one plain file; returns the virtual size."""
    if len(header) < 104:
        header = header.ljust(104, b"\0")
    version, backing_offset, _, cluster_bits, virtual_bytes, encryption = struct.unpack_from(
        ">IQIIQI", header, 4
    )
    if version not in (2, 3):
        raise _unsupported(f"qcow version {version}")
    if backing_offset:
        raise _unsafe("it has a backing file", "flatten it: qemu-img convert -O qcow2 OLD NEW")
    if encryption:
        raise _unsafe("it is encrypted", "decrypt it with qemu-img convert")
    features = struct.unpack_from(">Q", header, 72)[0] if version == 3 else 0
    header_bytes = struct.unpack_from(">I", header, 100)[0] if version == 3 else 72
    if features & _DATA_FILE:
        raise _unsafe(
            "it keeps its content in an external data file", "convert it: qemu-img convert -O qcow2 OLD NEW"
        )
    if features & _CORRUPT:
        raise _unsafe("it is marked as corrupt", "repair it: qemu-img check -r all FILE")
    if features & _DIRTY:
        raise _unsafe("it was not closed cleanly", "repair it: qemu-img check -r all FILE")
    if features & ~(_COMPRESSION | _EXTENDED_L2):
        raise _unsafe(
            f"it needs unknown features ({features:#x})", "convert it: qemu-img convert -O qcow2 OLD NEW"
        )
    if not 9 <= cluster_bits <= 21:
        raise _unsafe(
            f"its cluster size is 2^{cluster_bits}", "convert it: qemu-img convert -O qcow2 OLD NEW"
        )
    _check_extensions(header, header_bytes, 1 << cluster_bits)
    if not 0 < virtual_bytes <= _MAX_VIRTUAL_BYTES or file_bytes < header_bytes:
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
        raise _unsafe("its reference counts are too wide", "convert it: qemu-img convert -O qcow2 OLD NEW")


def _check_extensions(header: bytes, header_bytes: int, cluster_bytes: int) -> None:
    for kind in _extensions(header, header_bytes, cluster_bytes):
        if kind == _EXTENSION_DATA_FILE:
            raise _unsafe("it names an external data file", "convert it: qemu-img convert -O qcow2 OLD NEW")
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
    raise _unsafe("its header extensions have no end", "convert it: qemu-img convert -O qcow2 OLD NEW")


def _unsafe(reason: str, hint: str) -> InvalidError:
    return InvalidError(f"the qcow2 file cannot be taken: {reason}", hint=hint, code="image-unsafe")


def _unsupported(name: str) -> InvalidError:
    return InvalidError(
        f"{name} is not imported directly",
        hint="convert it first: qemu-img convert -O qcow2 OLD NEW"
        if name not in _PACKED
        else f"unpack the {name} first",
        code="image-format-unsupported",
    )


_PACKED = ("gzip", "xz", "zstd")
