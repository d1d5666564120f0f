"""VirtualBox's disks (VDI), and QED, which QEMU once wrote. Whatever lies over another file is refused."""

from __future__ import annotations

import struct

from vdc.images.content import Content
from vdc.images.formats.problems import FLATTEN, check_virtual_size, cut_off, unsafe

VDI_MAGIC, VDI_PLACE = b"\x7f\x10\xda\xbe", 64
QED_MAGIC = b"QED\x00"
_VDI_HEADER_BYTES, _QED_HEADER_BYTES = 456, 64
_VDI_DYNAMIC, _VDI_STATIC = 1, 2
_QED_BACKING = 1
_NO_BLOCK = 0xFFFFFFFE  # all zeros, or never written
_BATCH_BYTES = 1 << 20


def check_vdi(content: Content) -> int:
    """Virtual size; InvalidError (`image-unsafe`)."""
    head = content.read(0, _VDI_HEADER_BYTES)
    if len(head) < _VDI_HEADER_BYTES:
        raise cut_off("VDI", "its header")
    version, _, kind = struct.unpack_from("<III", head, 68)
    if version >> 16 != 1:
        raise unsafe("VDI", f"its version is {version >> 16}.{version & 0xFFFF}", FLATTEN)
    if any(head[424:456]) or kind not in (_VDI_DYNAMIC, _VDI_STATIC):
        raise unsafe("VDI", "it is a snapshot over another disk", FLATTEN)
    map_place, data_place = struct.unpack_from("<II", head, 340)
    virtual_bytes, block_bytes, _, blocks, allocated = struct.unpack_from("<QIIII", head, 368)
    if block_bytes != 1 << 20 or blocks < -(-virtual_bytes // block_bytes) or allocated > blocks:
        raise unsafe("VDI", "its header says what cannot be", "is the file damaged?")
    if map_place + 4 * blocks > content.size_bytes or data_place > content.size_bytes:
        raise cut_off("VDI", "its table")
    _check_blocks(content, map_place, blocks, (content.size_bytes - data_place) // block_bytes)
    return check_virtual_size("VDI", virtual_bytes)


def _check_blocks(content: Content, place: int, count: int, present: int) -> None:
    """All of them lie in the file, which has `present` ones: QEMU reads what is cut off as zeros."""
    for at in range(place, place + 4 * count, _BATCH_BYTES):
        for (block,) in struct.iter_unpack("<I", content.read(at, min(_BATCH_BYTES, place + 4 * count - at))):
            if present <= block < _NO_BLOCK:
                raise cut_off("VDI", "its content")


def check_qed(content: Content) -> int:
    """Virtual size; InvalidError (`image-unsafe`)."""
    head = content.read(0, _QED_HEADER_BYTES)
    if len(head) < _QED_HEADER_BYTES:
        raise cut_off("QED", "its header")
    features, _, _, l1_place, virtual_bytes = struct.unpack_from("<QQQQQ", head, 16)
    if features & _QED_BACKING:
        raise unsafe("QED", "it has a backing file", FLATTEN)
    if features & ~2:
        raise unsafe("QED", f"it needs unknown features ({features:#x})", FLATTEN)
    if l1_place >= content.size_bytes:
        raise cut_off("QED", "its table")
    return check_virtual_size("QED", virtual_bytes)
