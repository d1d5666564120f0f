"""ext4's records as bytes: inodes, extents, folders. Little-endian, blocks of 4 KiB, no checksums. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence

from vdc.images.filetree import Kind, Node

BLOCK_BYTES = 4096
INODE_BYTES = 256
EXTRA_BYTES = 32  # of an inode, behind the first 128; attributes come after them
IN_INODE_BYTES = INODE_BYTES - 128 - EXTRA_BYTES
MAX_EXTENT_BLOCKS = 32768
MAX_LINKS = 65_000
FAST_SYMLINK_BYTES = 59  # that fit where extents would be
SECTOR_BYTES = 512
_EXTENTS_FLAG = 0x80000
_EXTENT_MAGIC = 0xF30A
_IN_ROOT, _IN_BLOCK = 4, (BLOCK_BYTES - 12) // 12
_INODE = struct.Struct("<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIIII")
_ENTRY = struct.Struct("<IHBB")
_FIRST_SECOND, _LAST_SECOND = -(1 << 31), (1 << 34) - (1 << 31) - 1
_TYPES = {
    Kind.FILE: 1,
    Kind.FOLDER: 2,
    Kind.CHARACTER: 3,
    Kind.BLOCK: 4,
    Kind.FIFO: 5,
    Kind.SYMLINK: 7,
}

Extent = tuple[int, int, int]  # first block of the file, first block of the disk, number of blocks


def pack_inode(
    node: Node,
    *,
    links: int,
    size: int,
    blocks: int,
    place: bytes,
    has_extents: bool,
    attributes: bytes = b"",
    attribute_block: int = 0,
) -> bytes:
    """One inode. `place` is what tells where its content is, `blocks` how many it takes in all."""
    seconds, extra = _time(node.mtime_ns)
    sectors = blocks * (BLOCK_BYTES // SECTOR_BYTES)
    head = _INODE.pack(
        node.mode, node.uid & 0xFFFF, size & 0xFFFFFFFF, seconds, seconds, seconds, 0, node.gid & 0xFFFF,
        links, sectors & 0xFFFFFFFF, _EXTENTS_FLAG if has_extents else 0, 0, place,
        0, attribute_block & 0xFFFFFFFF, size >> 32, 0,
        sectors >> 32, attribute_block >> 32, node.uid >> 16, node.gid >> 16, 0, 0,
        EXTRA_BYTES, 0, extra, extra, extra, seconds, extra, 0, 0,
    )  # fmt: skip
    return (head + attributes).ljust(INODE_BYTES, b"\0")


def _time(mtime_ns: int) -> tuple[int, int]:
    """Seconds and their extension: two more bits, and the nanoseconds."""
    seconds, nanoseconds = divmod(mtime_ns, 10**9)
    if not _FIRST_SECOND <= seconds <= _LAST_SECOND:
        seconds, nanoseconds = max(_FIRST_SECOND, min(seconds, _LAST_SECOND)), 0
    return seconds & 0xFFFFFFFF, nanoseconds << 2 | (seconds + (1 << 31)) >> 32


def pack_device(device: tuple[int, int]) -> bytes:
    """A device's numbers, where extents would be: in the old form where they fit, else in the new one."""
    major, minor = device
    if major < 256 and minor < 256:
        return struct.pack("<I", major << 8 | minor).ljust(60, b"\0")
    return struct.pack("<II", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12).ljust(60, b"\0")


def pack_extents(extents: Sequence[Extent], write_block: Callable[[bytes], int]) -> tuple[bytes, int]:
    """The root of the tree that an inode holds, and how many blocks the rest takes, written by `write_block`."""
    level = [
        (first, struct.pack("<IHHI", first, count, start >> 32, start & 0xFFFFFFFF))
        for first, start, count in extents
    ]
    depth = written = 0
    while len(level) > _IN_ROOT:
        above = []
        for begin in range(0, len(level), _IN_BLOCK):
            part = level[begin : begin + _IN_BLOCK]
            block = write_block(_extent_node(part, _IN_BLOCK, depth).ljust(BLOCK_BYTES, b"\0"))
            above.append((part[0][0], struct.pack("<IIHH", part[0][0], block & 0xFFFFFFFF, block >> 32, 0)))
        written += len(above)
        level, depth = above, depth + 1
    return _extent_node(level, _IN_ROOT, depth).ljust(60, b"\0"), written


def _extent_node(entries: Iterable[tuple[int, bytes]], room: int, depth: int) -> bytes:
    packed = [entry for _, entry in entries]
    return struct.pack("<HHHHI", _EXTENT_MAGIC, len(packed), room, depth, 0) + b"".join(packed)


def extent_blocks(extents: int) -> int:
    """How many blocks the tree of so many extents takes beside the inode."""
    blocks = 0
    while extents > _IN_ROOT:
        extents = -(-extents // _IN_BLOCK)
        blocks += extents
    return blocks


def pack_folder(own: int, parent: int, content: Iterable[tuple[bytes, int, Kind]]) -> bytes:
    """A folder's blocks: names with the numbers of their inodes."""
    done, block, last = bytearray(), bytearray(), 0
    entries = [(b".", own, Kind.FOLDER), (b"..", parent, Kind.FOLDER), *content]
    for name, number, kind in entries:
        length = entry_bytes(name)
        if len(block) + length > BLOCK_BYTES:
            done += _filled(block, last)
            block = bytearray()
        last = len(block)
        block += _ENTRY.pack(number, length, len(name), _TYPES[kind]) + name.ljust(length - 8, b"\0")
    return bytes(done + _filled(block, last))


def _filled(block: bytearray, last: int) -> bytearray:
    """The last entry reaches to the block's end."""
    struct.pack_into("<H", block, last + 4, BLOCK_BYTES - last)
    return block.ljust(BLOCK_BYTES, b"\0")


def entry_bytes(name: bytes) -> int:
    """What a name takes in a folder."""
    return 8 + -(-len(name) // 4) * 4


def folder_blocks(names: Iterable[bytes]) -> int:
    """How many blocks `pack_folder` makes."""
    blocks, used = 1, entry_bytes(b".") + entry_bytes(b"..")
    for name in names:
        length = entry_bytes(name)
        if used + length > BLOCK_BYTES:
            blocks, used = blocks + 1, 0
        used += length
    return blocks
