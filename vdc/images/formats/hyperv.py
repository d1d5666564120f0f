"""Microsoft's disks: VHD (`vpc` in QEMU) and VHDX. Whatever lies over a parent is refused.

Formats: "Virtual Hard Disk Image Format Specification" and [MS-VHDX].
"""

from __future__ import annotations

import struct
import uuid

from vdc.images.content import Content
from vdc.images.formats.problems import FLATTEN, check_virtual_size, cut_off, unsafe

VHD_MAGIC, VHDX_MAGIC = b"conectix", b"vhdxfile"
_VHD, _VHDX = "VHD", "VHDX"
FOOTER_BYTES = 512
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
# Whose sizes follow from cylinders, heads and sectors; all others mean the size they say.
_BY_GEOMETRY = (b"vpc ", b"vs  ", b"qemu")
_HEADERS = (64 * 1024, 128 * 1024)
_REGION_TABLES = (192 * 1024, 256 * 1024)
_TABLE_BYTES = 64 * 1024
_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_VIRTUAL_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_HAS_PARENT = 2
_MOST_ENTRIES = 2047


def is_fixed_vhd(content: Content) -> bool:
    """A fixed VHD is the disk's bytes, and a footer behind them."""
    footer = content.read(content.size_bytes - FOOTER_BYTES, FOOTER_BYTES)
    return footer.startswith(VHD_MAGIC) and struct.unpack_from(">I", footer, 60)[0] == _FIXED


def check_vhd(content: Content) -> tuple[int, bool]:
    """Virtual size, and whether that is meant (else QEMU reckons it from the geometry); InvalidError."""
    footer = content.read(content.size_bytes - FOOTER_BYTES, FOOTER_BYTES)
    if not footer.startswith(VHD_MAGIC):
        raise cut_off(_VHD, "its last sector")
    if _checksum(footer) != struct.unpack_from(">I", footer, 64)[0]:
        raise unsafe(_VHD, "its last sector is damaged", "fetch the file again")
    virtual_bytes, _, kind = struct.unpack_from(">QII", footer, 48)
    if kind == _DIFFERENCING:
        raise unsafe(_VHD, "it is a snapshot over another disk", FLATTEN)
    if kind not in (_FIXED, _DYNAMIC):
        raise unsafe(_VHD, f"it is of kind {kind}", FLATTEN)
    if footer[84]:
        raise unsafe(_VHD, "it belongs to a machine in saved state", "shut the machine down first")
    if kind == _FIXED and virtual_bytes > content.size_bytes - FOOTER_BYTES:
        raise cut_off(_VHD, "its content")
    return check_virtual_size(_VHD, virtual_bytes), footer[28:32] not in _BY_GEOMETRY


def _checksum(footer: bytes) -> int:
    return ~(sum(footer[:64]) + sum(footer[68:])) & 0xFFFFFFFF


def check_vhdx(content: Content) -> int:
    """Virtual size; InvalidError (`image-unsafe`)."""
    _check_log(content)
    place, length = _metadata_region(content)
    table = content.read(place, min(length, _TABLE_BYTES))
    if not table.startswith(b"metadata") or len(table) < 32:
        raise cut_off(_VHDX, "its description")
    (count,) = struct.unpack_from("<H", table, 10)
    items = {}
    for index in range(min(count, _MOST_ENTRIES)):
        entry = table[32 + index * 32 : 64 + index * 32]
        if len(entry) == 32:
            offset, size = struct.unpack_from("<II", entry, 16)
            items[entry[:16]] = content.read(place + offset, min(size, 64))
    parameters, size_item = items.get(_FILE_PARAMETERS, b""), items.get(_VIRTUAL_SIZE, b"")
    if len(parameters) < 8 or len(size_item) < 8:
        raise cut_off(_VHDX, "its description")
    if struct.unpack_from("<I", parameters, 4)[0] & _HAS_PARENT:
        raise unsafe(_VHDX, "it is a snapshot over another disk", FLATTEN)
    return check_virtual_size(_VHDX, struct.unpack_from("<Q", size_item)[0])


def _check_log(content: Content) -> None:
    """What is in its log was not written to its place yet. Of the two headers the one with the higher number counts."""
    heads = [content.read(place, 64) for place in _HEADERS]
    heads = [head for head in heads if head.startswith(b"head") and len(head) == 64]
    if heads and any(max(heads, key=lambda head: struct.unpack_from("<Q", head, 8))[48:64]):
        raise unsafe(
            _VHDX, "it was not closed cleanly", "shut its machine down, or: qemu-img check -r all FILE"
        )


def _metadata_region(content: Content) -> tuple[int, int]:
    for place in _REGION_TABLES:
        table = content.read(place, _TABLE_BYTES)
        if not table.startswith(b"regi") or len(table) < 16:
            continue
        (count,) = struct.unpack_from("<I", table, 8)
        for index in range(min(count, _MOST_ENTRIES)):
            entry = table[16 + index * 32 : 48 + index * 32]
            if len(entry) == 32 and entry[:16] == _METADATA:
                found: tuple[int, int] = struct.unpack_from("<QI", entry, 16)
                return found
    raise cut_off(_VHDX, "its table of contents")
