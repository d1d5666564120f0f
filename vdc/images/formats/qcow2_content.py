"""The guest's bytes in a qcow2 file without a backing file: to look at a few sectors without a tool. Pure.

Compressed clusters are unpacked where they are deflated; those of other methods count as not there. Nothing is
cached but the last tables: it is for reading little.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

from vdc.images.content import MOST_AT_ONCE, Content, clamp

_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED, _ZERO = 1 << 62, 1
_EXTENDED_L2, _COMPRESSION = 16, 8


class UnreadableError(Exception):
    """A part of the disk is kept in a way that is not read here."""


class Qcow2Content:
    """Of a file that `check_qcow2` took. `read` raises UnreadableError, and what the file's `read` raises."""

    _CLUSTER_BITS = range(9, 22)

    def __init__(self, file: Content) -> None:
        self._file = file
        head = file.read(0, 112).ljust(112, b"\0")
        version, _, _, bits, self.size_bytes = struct.unpack_from(">IQIIQ", head, 4)
        l1_entries, self._l1_place = struct.unpack_from(">4xIQ", head, 32)
        if bits not in self._CLUSTER_BITS:
            raise UnreadableError
        features = struct.unpack_from(">Q", head, 72)[0] if version == 3 else 0
        self._bits, self._cluster_bytes, self._l1_entries = bits, 1 << bits, l1_entries
        self._is_extended = bool(features & _EXTENDED_L2)
        self._is_deflated = not (features & _COMPRESSION and head[104])
        self._per_table = self._cluster_bytes // (16 if self._is_extended else 8)
        self._cluster = lru_cache(maxsize=16)(self._read_cluster)

    def read(self, place: int, length: int) -> bytes:
        """See `Content`."""
        left = clamp(place, length, self.size_bytes)
        found = []
        while left:
            cluster, at = divmod(place, self._cluster_bytes)
            part = self._cluster(cluster)[at : at + left]
            found.append(part)
            place, left = place + len(part), left - len(part)
        return b"".join(found)

    def _read_cluster(self, cluster: int) -> bytes:
        table, index = divmod(cluster, self._per_table)
        if table >= self._l1_entries:
            return bytes(self._cluster_bytes)
        place = self._number(self._l1_place + 8 * table) & _OFFSET
        if not place:
            return bytes(self._cluster_bytes)
        step = 16 if self._is_extended else 8
        entry = self._number(place + step * index)
        if entry & _COMPRESSED:
            return self._unpacked(entry)
        if self._is_extended and entry:
            return self._subclusters(entry, self._number(place + step * index + 8))
        if entry & _ZERO or not entry & _OFFSET:
            return bytes(self._cluster_bytes)
        return self._file.read(entry & _OFFSET, self._cluster_bytes).ljust(self._cluster_bytes, b"\0")

    def _subclusters(self, entry: int, bitmap: int) -> bytes:
        """Of 32 parts each says whether it is there; those that are not are zeros."""
        content = self._file.read(entry & _OFFSET, self._cluster_bytes).ljust(self._cluster_bytes, b"\0")
        size = self._cluster_bytes // 32
        parts = (content[i * size : (i + 1) * size] if bitmap >> i & 1 else bytes(size) for i in range(32))
        return b"".join(parts)

    def _unpacked(self, entry: int) -> bytes:
        if not self._is_deflated:
            raise UnreadableError
        bits = 62 - (self._bits - 8)
        place, sectors = entry & ((1 << bits) - 1), entry >> bits & ((1 << 62 - bits) - 1)
        packed = self._file.read(place, min((sectors + 1) * 512 - place % 512, MOST_AT_ONCE))
        try:
            found = zlib.decompressobj(-15).decompress(packed, self._cluster_bytes)
        except zlib.error as error:
            raise UnreadableError from error
        return found.ljust(self._cluster_bytes, b"\0")

    def _number(self, place: int) -> int:
        return int.from_bytes(self._file.read(place, 8).ljust(8, b"\0"), "big")
