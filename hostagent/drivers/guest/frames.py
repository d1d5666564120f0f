"""Frames of the guest channel (docs/guest-channel.md), and a reader of them that trusts no byte. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MAGIC: Final = b"VG"
HEADER: Final = struct.Struct(">2sBBII")
MOST_PAYLOAD: Final = 65_536
FIRST_CREDIT: Final = 262_144
MOST_CREDIT: Final = 4 * FIRST_CREDIT  # that the guest may leave unused
MOST_STREAMS: Final = 64
NONCE_BYTES: Final = 16
_CREDIT = struct.Struct(">I")


class FrameType(IntEnum):
    """See the table of the page."""

    RESET = 1
    OPEN = 2
    DATA = 3
    ERRDATA = 4
    EOF = 5
    CREDIT = 6
    CONTROL = 7
    DONE = 8
    CANCEL = 9


FROM_GUEST: Final = frozenset(
    {FrameType.RESET, FrameType.DATA, FrameType.ERRDATA, FrameType.EOF, FrameType.CREDIT, FrameType.DONE}
)


class FrameError(ValueError):
    """What came is no frame that a guest may send."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    type: FrameType
    stream: int
    payload: bytes = b""

    def encoded(self) -> bytes:
        """As it travels."""
        return HEADER.pack(MAGIC, self.type, 0, self.stream, len(self.payload)) + self.payload


def credit_frame(stream: int, more_bytes: int) -> Frame:
    """So many more bytes may be sent to me."""
    return Frame(FrameType.CREDIT, stream, _CREDIT.pack(more_bytes))


def credit_of(frame: Frame) -> int:
    """Of a CREDIT frame. Raises FrameError."""
    if len(frame.payload) != _CREDIT.size:
        raise FrameError("a credit of another size")
    (more,) = _CREDIT.unpack(frame.payload)
    if not more:
        raise FrameError("a credit of nothing")
    return int(more)


def parse_header(header: bytes) -> tuple[FrameType, int, int]:
    """Type, stream and length of the payload. Raises FrameError."""
    magic, kind, zero, stream, length = HEADER.unpack(header)
    if magic != MAGIC or zero != 0:
        raise FrameError("bytes that are no frame")
    if kind not in FROM_GUEST:
        raise FrameError(f"a frame of type {kind}")
    if length > MOST_PAYLOAD:
        raise FrameError(f"a frame of {length} bytes")
    if (kind == FrameType.EOF) is (length > 0) and kind in (FrameType.EOF, FrameType.DATA, FrameType.ERRDATA):
        raise FrameError(f"{length} bytes where there are {'none' if length else 'some'}")
    return FrameType(kind), stream, length
