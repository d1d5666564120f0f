"""What travels over the API about backups: what is asked for, and a disk as a stream of parts.

A part is a head and, where it is data, the bytes. Parts come in order and do not overlap. What no part is about has
not changed since the backup that was named, or holds zeros where none was. The last part says that nothing is missing.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from vdc.model.base import Record, StrictRecord
from vdc.model.errors import BugError, UnavailableError
from vdc.model.ids import DnsLabel
from vdc.model.image import Image

MOST_PART_BYTES: Final = 1024**2
_HEAD = struct.Struct(">BQQ")


class BackupRequest(StrictRecord):
    """Copy all disks as they are. `since`: an earlier backup, of which the later changes are enough."""

    quiesce: bool = False
    since: str = ""


class BackupDiskView(Record):
    """One disk of a backup."""

    name: str
    virtual_bytes: int


class BackupView(Record):
    """A copy that can be read, on `host`, until it is ended or left alone for minutes.

    `since`: what is asked for, where only the later changes are here; else it is empty and `full_because` says why.
    """

    id: str
    endophyte: DnsLabel
    uid: str
    host: str
    created_at: str
    is_quiesced: bool
    was_running: bool
    since: str = ""
    full_because: str = ""
    disks: tuple[BackupDiskView, ...]
    image: Image
    manifest: dict[str, Any]  # without secrets


class PartKind(IntEnum):
    """What a part is."""

    DATA = 1
    ZEROS = 2
    END = 3  # `offset` is the size of the disk


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a disk."""

    kind: PartKind
    offset: int
    length: int = 0
    data: bytes = b""


def head_of(kind: PartKind, offset: int, length: int = 0) -> bytes:
    """What goes before the data."""
    return _HEAD.pack(kind, offset, length)


async def read_parts(
    chunks: AsyncIterator[bytes], first: int, virtual_bytes: int
) -> AsyncGenerator[Part, None]:
    """The parts of a stream, its end included; BugError (`bad-answer`), UnavailableError (`backup-cut`)."""
    reader = _Reader(chunks)
    at = first
    while True:
        kind, offset, length = _HEAD.unpack(await reader.take(_HEAD.size))
        is_end = kind == PartKind.END
        is_sound = offset == virtual_bytes if is_end else at <= offset < offset + length <= virtual_bytes
        if (
            not is_sound
            or kind not in tuple(PartKind)
            or (kind == PartKind.DATA and length > MOST_PART_BYTES)
        ):
            raise BugError("the agent sent a disk that does not fit together", code="bad-answer")
        yield Part(
            PartKind(kind), offset, length, await reader.take(length) if kind == PartKind.DATA else b""
        )
        if is_end:
            return
        at = offset + length


class _Reader:
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._left = bytearray()

    async def take(self, length: int) -> bytes:
        while len(self._left) < length:
            chunk = await anext(self._chunks, b"")
            if not chunk:
                raise UnavailableError("the copy of the disk broke off", code="backup-cut")
            self._left += chunk
        taken = bytes(self._left[:length])
        del self._left[:length]
        return taken
