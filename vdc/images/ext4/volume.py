"""An empty ext4 file system, as mke2fs made it: its free blocks are taken in order, its inodes written in order.

Only file systems without checksums (`vdc.images.ext4.build`), whose bitmaps and tables are all initialised.
"""

from __future__ import annotations

import os
import struct

from vdc.images.ext4.records import BLOCK_BYTES, INODE_BYTES
from vdc.model.errors import BugError
from vdc.model.units import MIB

ROOT_INODE, FIRST_INODE = 2, 11
_SUPERBLOCK_AT, _SUPERBLOCK_BYTES, _MAGIC = 1024, 1024, 0xEF53
_BUFFER_BYTES = 4 * MIB
_DESCRIPTOR_BYTES = 64


class Volume:
    """The file system in an open file. Nothing may read it before `finish`."""

    def __init__(self, descriptor: int) -> None:
        self._out = _Buffered(descriptor)
        self._descriptor = descriptor
        self._super = bytearray(os.pread(descriptor, _SUPERBLOCK_BYTES, _SUPERBLOCK_AT))
        magic, descriptor_bytes = self._number(56, 2), self._number(254, 2)
        if magic != _MAGIC or descriptor_bytes != _DESCRIPTOR_BYTES or self._number(24, 4) != 2:
            raise BugError("mke2fs made another file system than it was told")
        self.inodes = self._number(0, 4)
        self._blocks = self._number(4, 4) | self._number(336, 4) << 32
        self._group_blocks, self._group_inodes = self._number(32, 4), self._number(40, 4)
        groups = -(-self._blocks // self._group_blocks)
        table = os.pread(descriptor, groups * _DESCRIPTOR_BYTES, BLOCK_BYTES)
        self._groups = [_Group(table, group * _DESCRIPTOR_BYTES) for group in range(groups)]
        self._folders = [0] * groups
        self._next_inode = FIRST_INODE
        self._clear()
        self._bitmaps = [self._bits(group.block_bitmap, self._group_blocks) for group in self._groups]
        self._runs = [run for group in range(groups) for run in self._free_runs(group)]
        self._run = self._used_of_run = 0
        self.free_blocks = sum(count for _, count in self._runs)

    def take(self, blocks: int) -> list[tuple[int, int]]:
        """The next free blocks, as (first, number); a run is never longer than one extent may be."""
        taken = []
        while blocks:
            if self._run == len(self._runs):
                raise BugError("the file system was made too small")
            first, count = self._runs[self._run]
            part = min(blocks, count - self._used_of_run)
            taken.append((first + self._used_of_run, part))
            self._used_of_run += part
            blocks -= part
            if self._used_of_run == count:
                self._run, self._used_of_run = self._run + 1, 0
        return taken

    def write(self, place: int, content: bytes) -> None:
        """Write at a place in bytes. What is never written is zero."""
        self._out.write(place, content)

    def copy(self, source: int, source_place: int, place: int, count: int) -> int:
        """Copy from another open file, without it passing through here; returns how much there was, up to `count`."""
        self._out.flush()
        try:
            return int(os.copy_file_range(source, self._descriptor, count, source_place, place))
        except OSError:  # not between these two file systems
            content = os.pread(source, min(count, _BUFFER_BYTES), source_place)
            return os.pwrite(self._descriptor, content, place)

    def add_inode(self, number: int, record: bytes, *, is_folder: bool) -> None:
        """Write one inode: the root's, then the others in order, from FIRST_INODE on."""
        group, index = divmod(number - 1, self._group_inodes)
        self._folders[group] += is_folder
        if number == ROOT_INODE:
            os.pwrite(self._descriptor, record, self._inode_place(number))
            return
        assert number == self._next_inode
        self._next_inode += 1
        self._groups[group].records += record
        if len(self._groups[group].records) >= _BUFFER_BYTES or index == self._group_inodes - 1:
            self._flush_inodes(group)

    def finish(self) -> None:
        """Write the maps and counts."""
        self._out.flush()
        self._mark_blocks()
        last = self._next_inode - 1
        for number, group in enumerate(self._groups):
            used = max(0, min(last - number * self._group_inodes, self._group_inodes))
            if group.records:
                self._flush_inodes(number)
            inodes = self._bits(group.inode_bitmap, self._group_inodes) | (1 << used) - 1
            self._write_bits(group.inode_bitmap, inodes, self._group_inodes)
            self._write_bits(group.block_bitmap, self._bitmaps[number], self._group_blocks)
            free_blocks = self._group_blocks - self._bitmaps[number].bit_count()
            group.count(free_blocks, self._group_inodes - inodes.bit_count(), self._folders[number])
        table = b"".join(group.record for group in self._groups)
        os.pwrite(self._descriptor, table, BLOCK_BYTES)
        free_blocks = sum(self._group_blocks - bits.bit_count() for bits in self._bitmaps)
        struct.pack_into("<I", self._super, 12, free_blocks & 0xFFFFFFFF)
        struct.pack_into("<I", self._super, 344, free_blocks >> 32)
        struct.pack_into("<I", self._super, 16, self.inodes - last)
        os.pwrite(self._descriptor, self._super, _SUPERBLOCK_AT)

    # ---- helpers

    def _number(self, place: int, size: int) -> int:
        return int.from_bytes(self._super[place : place + size], "little")

    def _inode_place(self, number: int) -> int:
        group, index = divmod(number - 1, self._group_inodes)
        return self._groups[group].inode_table * BLOCK_BYTES + index * INODE_BYTES

    def _flush_inodes(self, number: int) -> None:
        """The records that wait are the last ones before `_next_inode`."""
        records = self._groups[number].records
        first = self._next_inode - len(records) // INODE_BYTES
        os.pwrite(self._descriptor, records, self._inode_place(first))
        records.clear()

    def _clear(self) -> None:
        """Give back the blocks of the only folders that there are: the root and lost+found, which no container has."""
        for number in (ROOT_INODE, FIRST_INODE):
            inode = os.pread(self._descriptor, INODE_BYTES, self._inode_place(number))
            entries, _, depth = struct.unpack_from("<HHH", inode, 42)
            if depth:
                raise BugError("mke2fs made a larger folder than it has use for")
            for index in range(entries):
                _, count, high, low = struct.unpack_from("<IHHI", inode, 52 + 12 * index)
                self._give_back(low | high << 32, count)
            os.pwrite(self._descriptor, bytes(INODE_BYTES), self._inode_place(number))

    def _give_back(self, first: int, count: int) -> None:
        group, index = divmod(first, self._group_blocks)
        place = self._groups[group].block_bitmap
        bits = self._bits(place, self._group_blocks) & ~(((1 << count) - 1) << index)
        self._write_bits(place, bits, self._group_blocks)
        os.pwrite(self._descriptor, bytes(count * BLOCK_BYTES), first * BLOCK_BYTES)

    def _bits(self, block: int, count: int) -> int:
        return int.from_bytes(os.pread(self._descriptor, count // 8, block * BLOCK_BYTES), "little")

    def _write_bits(self, block: int, bits: int, count: int) -> None:
        os.pwrite(self._descriptor, bits.to_bytes(count // 8, "little"), block * BLOCK_BYTES)

    def _free_runs(self, group: int) -> list[tuple[int, int]]:
        first = group * self._group_blocks
        size = min(self._group_blocks, self._blocks - first)
        free, runs, start = ~self._bitmaps[group] & (1 << size) - 1, [], 0
        while free:
            skipped = (free & -free).bit_length() - 1
            free >>= skipped
            start += skipped
            count = (~free & free + 1).bit_length() - 1
            runs.append((first + start, count))
            free >>= count
            start += count
        return runs

    def _mark_blocks(self) -> None:
        used = self._runs[: self._run]
        if self._used_of_run:
            used = [*used, (self._runs[self._run][0], self._used_of_run)]
        for first, count in used:
            group, index = divmod(first, self._group_blocks)
            self._bitmaps[group] |= ((1 << count) - 1) << index


class _Group:
    """One group's descriptor, and the records of its inodes that are not written yet."""

    def __init__(self, table: bytes, place: int) -> None:
        self.record = bytearray(table[place : place + _DESCRIPTOR_BYTES])
        self.block_bitmap, self.inode_bitmap, self.inode_table = (
            self._block(low, high) for low, high in ((0, 32), (4, 36), (8, 40))
        )
        self.records = bytearray()

    def _block(self, low: int, high: int) -> int:
        return int.from_bytes(self.record[low : low + 4] + self.record[high : high + 4], "little")

    def count(self, free_blocks: int, free_inodes: int, folders: int) -> None:
        for place, number in ((12, free_blocks), (14, free_inodes), (16, folders)):
            struct.pack_into("<H", self.record, place, number & 0xFFFF)
            struct.pack_into("<H", self.record, place + 32, number >> 16)


class _Buffered:
    """Many small writes, most of them one behind the other, as few large ones."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._place = 0
        self._waiting = bytearray()

    def write(self, place: int, content: bytes) -> None:
        gap = place - self._place - len(self._waiting)
        if not 0 <= gap < BLOCK_BYTES or len(self._waiting) > _BUFFER_BYTES:
            self.flush()
            self._place, gap = place, 0
        self._waiting += bytes(gap) + content

    def flush(self) -> None:
        left = memoryview(self._waiting)
        while left:
            written = os.pwrite(self._descriptor, left, self._place)
            self._place += written
            left = left[written:]
        self._waiting = bytearray()
