"""VMware's disks: one sparse file (monolithicSparse, streamOptimized), or a descriptor and the extents it names.

A descriptor is text that names files, by which a hostile one would have others read. So it is read here, only plain
names beside it are followed, and qemu-img is given a descriptor that we write (`describe`).
Format: "Virtual Disk Format 5.0" (VMware), and QEMU's block/vmdk.c.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from dataclasses import dataclass

from vdc.images.content import Content
from vdc.images.formats.problems import FLATTEN, check_virtual_size, cut_off, unsafe

SPARSE_MAGIC = b"KDMV"
MAX_EXTENTS = 200  # tools have 256 open files
_NAME = "vmdk"
_SECTOR = 512
_BATCH_BYTES = 1 << 20
_WORD = "I"
_HEADER = struct.Struct("<4sIIQQQQIQQQ?4sH")
_AT_END = 2**64 - 1
_COMPRESSED, _DEFLATE = 1 << 16, 1
_DESCRIPTOR_BYTES = 64 * 1024
_NO_PARENT = "ffffffff"
_ONE_FILE = ("monolithicsparse", "streamoptimized")
_EXTENT = re.compile(
    r'(RW|RDONLY|NOACCESS)\s+(\d{1,15})\s+([A-Za-z]+)(?:\s+"([^"]*)"(?:\s+(\d{1,15}))?)?(?:\s.*)?'
)
_KEY = re.compile(r"[A-Za-z0-9_.]+")


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of the disk: `kind` is SPARSE, FLAT or ZERO. `skip_bytes` of the file come before it."""

    kind: str
    size_bytes: int
    file: str = ""
    skip_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Sparse:
    """What the header of a sparse file says."""

    virtual_bytes: int
    is_compressed: bool


def check_sparse(content: Content, *, is_extent: bool = False) -> Sparse:
    """Of a file that begins with SPARSE_MAGIC; InvalidError (`image-unsafe`) unless it is one plain file."""
    head = content.read(0, _HEADER.size)
    if len(head) < _HEADER.size:
        raise cut_off(_NAME, "its header")
    _, version, flags, capacity, grain, descriptor, descriptor_size, entries, _, tables, _, _, _, packing = (
        _HEADER.unpack(head)
    )
    if version not in (1, 2, 3):
        raise unsafe(_NAME, f"its version is {version}", FLATTEN)
    if not 0 < grain <= 1 << 20 or grain & (grain - 1) or not 0 < entries <= 512:
        raise unsafe(_NAME, "its header says what cannot be", "is the file damaged?")
    if flags & _COMPRESSED and packing != _DEFLATE:
        raise unsafe(_NAME, f"it is compressed by a method {packing}", FLATTEN)
    virtual_bytes = check_virtual_size(_NAME, capacity * _SECTOR)
    if tables == _AT_END:
        tables = _tables_by_footer(content, capacity)
    if not is_extent:
        if descriptor_size * _SECTOR > _DESCRIPTOR_BYTES:
            raise unsafe(_NAME, "its description is too long", FLATTEN)
        _check_embedded(content.read(descriptor * _SECTOR, descriptor_size * _SECTOR))
    is_compressed = bool(flags & _COMPRESSED)
    _check_grains(
        content, _Tables(tables * _SECTOR, -(-capacity // (grain * entries)), entries, grain), is_compressed
    )
    return Sparse(virtual_bytes, is_compressed)


@dataclass(frozen=True, slots=True)
class _Tables:
    """A directory of `count` tables of grains, which are so many sectors each."""

    place: int
    count: int
    entries: int
    grain: int


def _check_grains(content: Content, tables: _Tables, is_compressed: bool) -> None:
    """All of them lie in the file, and no more of them than fit into it: QEMU reads what is cut off as zeros."""
    last = found = seen = 0
    for at in range(0, tables.count * 4, _BATCH_BYTES):
        wanted = min(_BATCH_BYTES, tables.count * 4 - at)
        directory = content.read(tables.place + at, wanted)
        if not tables.place or len(directory) < wanted:
            raise cut_off(_NAME, "its table")
        for (sector,) in struct.iter_unpack("<I", directory):
            if not sector:
                continue
            grains = array(_WORD, content.read(sector * _SECTOR, tables.entries * 4))
            seen += tables.entries * 4
            if len(grains) < tables.entries or seen > content.size_bytes:
                raise cut_off(_NAME, "its table")
            if sys.byteorder == "big":
                grains.byteswap()
            last = max(last, *grains)
            found += len(grains) - grains.count(0) - grains.count(1)
    if last > 1 and not _lies_within(content, last * _SECTOR, tables.grain * _SECTOR, is_compressed):
        raise cut_off(_NAME, "its content")
    least_bytes = _SECTOR if is_compressed else tables.grain * _SECTOR
    if found * least_bytes > content.size_bytes + tables.grain * _SECTOR:
        raise unsafe(_NAME, "it says that it holds more than fits into it", "is the file damaged?")


def _lies_within(content: Content, place: int, size_bytes: int, is_compressed: bool) -> bool:
    if is_compressed:  # each begins with its place on the disk, and its length
        marker = content.read(place, 12)
        size_bytes = 12 + struct.unpack_from("<I", marker, 8)[0] if len(marker) == 12 else size_bytes
    return place + size_bytes <= content.size_bytes


def _tables_by_footer(content: Content, capacity: int) -> int:
    """The header that counts lies a marker before the end; it describes the same disk."""
    found = content.read(content.size_bytes - 2 * _SECTOR, _HEADER.size)
    if len(found) < _HEADER.size or not found.startswith(SPARSE_MAGIC):
        raise cut_off(_NAME, "its last part")
    if _HEADER.unpack(found)[3] != capacity:
        raise unsafe(_NAME, "its two headers are not of the same disk", "is the file damaged?")
    tables: int = _HEADER.unpack(found)[9]
    return tables


def _check_embedded(text: bytes) -> None:
    keys, extents = _read(text)
    if not keys:
        raise unsafe(_NAME, "it is one part of a disk of several files", "import the description beside it")
    _check_keys(keys)
    if b"parentfilenamehint" in text.lower():  # QEMU finds it wherever it stands, in a comment too
        raise unsafe(_NAME, "it is a snapshot over another disk", FLATTEN)
    if keys.get("createtype", "").lower() not in _ONE_FILE or len(extents) > 1:
        raise unsafe(_NAME, "it describes a disk of several files", FLATTEN)


def parse_descriptor(text: bytes) -> tuple[Extent, ...]:
    """The extents of a descriptor file, in order. InvalidError (`image-unsafe`) for one that cannot be followed."""
    if len(text) > _DESCRIPTOR_BYTES:
        raise unsafe(_NAME, "its description is too long", FLATTEN)
    keys, extents = _read(text)
    _check_keys(keys)
    if not 0 < len(extents) <= MAX_EXTENTS:
        raise unsafe(_NAME, f"it has {len(extents)} parts; 1 to {MAX_EXTENTS} can be", FLATTEN)
    check_virtual_size(_NAME, sum(extent.size_bytes for extent in extents))
    return extents


def _check_keys(keys: dict[str, str]) -> None:
    if keys.get("parentcid", _NO_PARENT).lower() != _NO_PARENT or "parentfilenamehint" in keys:
        raise unsafe(_NAME, "it is a snapshot over another disk", FLATTEN)
    if "encoding" in keys and keys["encoding"].lower() not in ("utf-8", "windows-1252", "us-ascii"):
        raise unsafe(_NAME, "its description is in an unusual encoding", FLATTEN)
    if any(key.startswith("encryption") for key in keys):
        raise unsafe(_NAME, "it is encrypted", "decrypt it in VMware first")


def _read(text: bytes) -> tuple[dict[str, str], tuple[Extent, ...]]:
    keys: dict[str, str] = {}
    extents = []
    for line in text.split(b"\0", 1)[0].decode("utf-8", "replace").splitlines():
        if found := _EXTENT.fullmatch(line.strip()):
            extents.append(_extent(*found.groups()))
        elif line.strip().split(" ", 1)[0] in ("RW", "RDONLY", "NOACCESS"):
            raise unsafe(_NAME, "a part of it is described in a way that is not understood", FLATTEN)
        elif _KEY.fullmatch(key := line.partition("=")[0].strip()):  # by hand: nothing to go back in
            keys[key.lower()] = line.partition("=")[2].strip().strip('"')
    return keys, tuple(extents)


def _extent(access: str, sectors: str, kind: str, file: str | None, skip: str | None) -> Extent:
    if access == "NOACCESS":
        raise unsafe(_NAME, "a part of it may not be read", FLATTEN)
    kind, size_bytes = kind.upper(), int(sectors) * _SECTOR
    if kind == "ZERO" and file is None:
        return Extent("ZERO", size_bytes)
    if kind == "VMFS":
        kind = "FLAT"
    if kind not in ("FLAT", "SPARSE"):
        raise unsafe(_NAME, f"a part of it is of kind {kind[:20]}", FLATTEN)
    if not file or "/" in file or "\\" in file or file in (".", "..") or not file.isprintable():
        raise unsafe(_NAME, f"it names {(file or '')[:80]!r}, which is no file beside it", FLATTEN)
    return Extent(kind, size_bytes, file, int(skip or 0) * _SECTOR if kind == "FLAT" else 0)


def describe(extents: tuple[Extent, ...]) -> bytes:
    """A descriptor of our own for the same disk, with the files as they are given here."""
    lines = ["# Disk DescriptorFile", "version=1", "CID=fffffffe", f"parentCID={_NO_PARENT}"]
    is_sparse = any(extent.kind == "SPARSE" for extent in extents)
    lines.append(f'createType="twoGbMaxExtent{"Sparse" if is_sparse else "Flat"}"')
    for extent in extents:
        part = f"RW {extent.size_bytes // _SECTOR} {extent.kind}"
        if extent.file:
            part += f' "{extent.file}"'
        if extent.kind == "FLAT":
            part += f" {extent.skip_bytes // _SECTOR}"
        lines.append(part)
    lines += ['ddb.adapterType = "lsilogic"', ""]
    return "\n".join(lines).encode().ljust(_SECTOR, b"\n")
