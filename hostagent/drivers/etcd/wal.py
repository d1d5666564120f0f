"""Reading etcd's write-ahead log: what a member has written down and does not know to be decided.

Such an entry may have been decided all the same: the leader counts this member's acknowledgement and tells
it the result with its next message. A member that is made to go on alone forgets these entries, so whoever
asks for that has to look at them first. The log is only read, while no etcd runs on it.

Going on alone (`--force-new-cluster`) is itself written here: etcd appends the removal of every other member
after what it knows to be decided, and writes down that this is decided when it votes for itself, before it serves
anybody (restartAsStandaloneNode in server/etcdserver/raft.go). So the highest decided index tells whether a
member that was to go on alone has done so.

Format (etcd 3.5, server/storage/wal): frames of a little-endian length (its top byte tells the padding) and a
protobuf record {1: type, 3: data}; type 2 is a raft entry {3: index, 4: data}, type 3 the state {3: commit}.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_ENTRY, _STATE = 2, 3
_LENGTH_BITS = 56
_LARGEST_RECORD = 64 << 20
_LONGEST_VARINT_BITS = 70  # ten bytes


def undecided(data_dir: Path) -> tuple[bytes, ...]:
    """The data of the entries above the highest index that this member knows to be decided, oldest first.

    Raises ValueError where the log is not one that this module understands.
    """
    entries: dict[int, bytes] = {}
    commit = 0
    for path in _files(data_dir):
        with path.open("rb") as file:
            for kind, data in _records(file):
                if kind == _STATE:
                    commit = max(commit, _number(data, 3))
                elif kind == _ENTRY:
                    index = _number(data, 3)
                    for later in [one for one in entries if one > index]:  # a new leader has overwritten them
                        del entries[later]
                    entries[index] = _bytes(data, 4)
    return tuple(entries[index] for index in sorted(entries) if index > commit)


def decided(data_dir: Path) -> int:
    """The highest index that this member knows to be decided. Raises ValueError as `undecided`.

    While etcd runs the end of the log may be read half-written; that is a ValueError too, or an older index.
    """
    for path in reversed(_files(data_dir)):  # each file begins with the state at its time
        with path.open("rb") as file:
            found = [_number(data, 3) for kind, data in _records(file) if kind == _STATE]
        if found:
            return max(found)
    return 0


def make_durable(data_dir: Path) -> None:
    """Let what was read outlive a power cut, also where etcd was killed before it could see to that itself."""
    for path in _files(data_dir):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _files(data_dir: Path) -> list[Path]:
    """Oldest first. Raises ValueError where there is none."""
    files = sorted((data_dir / "member" / "wal").glob("*.wal"))
    if not files:
        raise ValueError(f"there is no etcd log below {data_dir}")
    return files


def _records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    while len(head := file.read(8)) == 8:
        word = int.from_bytes(head, "little")
        size = word & ((1 << _LENGTH_BITS) - 1)
        padding = (word >> _LENGTH_BITS) & 0x7 if word >> 63 else 0
        if size == 0:
            return  # space that is kept for later
        if size > _LARGEST_RECORD:
            raise ValueError(f"{file.name} is not etcd's log")
        record = file.read(size + padding)
        if len(record) < size:
            return  # torn by a crash: it was never acknowledged
        yield _number(record[:size], 1), _bytes(record[:size], 3)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protobuf message; raises ValueError."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif tag & 7 == 2:
            size, at = _varint(message, at)
            yield tag >> 3, message[at : at + size]
            at += size
        else:
            raise ValueError(f"protobuf wire type {tag & 7}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < _LONGEST_VARINT_BITS:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a protobuf number is cut off")


def _number(message: bytes, field: int) -> int:
    return next((value for found, value in _fields(message) if found == field and isinstance(value, int)), 0)


def _bytes(message: bytes, field: int) -> bytes:
    return next(
        (value for found, value in _fields(message) if found == field and isinstance(value, bytes)), b""
    )
