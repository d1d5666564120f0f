"""Which parts of a disk a qcow2 file holds, and where: for whoever reads all of it in the guest's order. Pure.

Of plain files as QEMU writes them: nothing compressed, no subclusters, no other file below. What the tables say is
somebody else's word: a place outside of the file is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vdc.images.content import Content, read_exactly
from vdc.images.formats.qcow2 import check_qcow2
from vdc.images.inspect import HEADER_BYTES
from vdc.model.errors import InvalidError

_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED, _ZERO = 1 << 62, 1
_EXTENDED_L2 = 16


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of the disk. `place`: in the file; None: it holds zeros."""

    offset: int
    length: int
    place: int | None


class Qcow2Map:
    """The tables of one file. Raises InvalidError (`image-unsafe`), and what the content's `read` raises."""

    def __init__(self, file: Content) -> None:
        self._file = file
        head = file.read(0, HEADER_BYTES)
        if not head.startswith(b"QFI\xfb"):
            raise _damaged("it is none")
        self.virtual_bytes = check_qcow2(head, file.size_bytes)
        head = head.ljust(104, b"\0")
        bits, self._l1_place = struct.unpack_from(">I", head, 20)[0], struct.unpack_from(">Q", head, 40)[0]
        if struct.unpack_from(">I", head, 4)[0] == 3 and struct.unpack_from(">Q", head, 72)[0] & _EXTENDED_L2:
            raise _damaged("it has subclusters")
        self._cluster_bytes = 1 << bits
        self._per_table = self._cluster_bytes // 8
        self.table_bytes = self._cluster_bytes * self._per_table  # of the disk, that one table is about

    def extents(self, first: int, most_bytes: int) -> list[Extent]:
        """What is held from the byte `first` on, to the end of the table that is about it, in order.

        Neighbours are put together up to `most_bytes`. What is not named is not in the file.
        """
        table = first // self.table_bytes
        found: list[Extent] = []
        for index, entry in enumerate(self._entries(table)):
            if not entry:
                continue
            offset = table * self.table_bytes + index * self._cluster_bytes
            length = min(self._cluster_bytes, self.virtual_bytes - offset)
            if length <= 0 or offset + length <= first:
                continue
            place = self._place(entry, length)
            last = found[-1] if found else None
            if last and _continues(last, offset, place) and last.length + length <= most_bytes:
                found[-1] = Extent(last.offset, last.length + length, last.place)
            else:
                found.append(Extent(offset, length, place))
        return found

    def _entries(self, table: int) -> tuple[int, ...]:
        found = read_exactly(self._file, self._l1_place + 8 * table, 8)
        if found is None:
            raise _damaged("its L1 table is cut off")
        place = int.from_bytes(found, "big") & _OFFSET
        if not place:
            return ()
        entries = read_exactly(self._file, place, self._cluster_bytes)
        if entries is None:
            raise _damaged("an L2 table is cut off")
        return struct.unpack(f">{self._per_table}Q", entries)

    def _place(self, entry: int, length: int) -> int | None:
        if entry & _COMPRESSED:
            raise _damaged("it is compressed")
        if entry & _ZERO:
            return None
        place = entry & _OFFSET
        if not place or place + length > self._file.size_bytes:
            raise _damaged("a cluster lies outside of it")
        return place


def _continues(last: Extent, offset: int, place: int | None) -> bool:
    if last.offset + last.length != offset:
        return False
    return place is None if last.place is None else place == last.place + last.length


def _damaged(why: str) -> InvalidError:
    return InvalidError(f"this is no qcow2 file as QEMU writes it: {why}", code="image-unsafe")
