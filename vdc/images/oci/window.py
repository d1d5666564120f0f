"""Reading a layer's headers: some bytes here, some bytes there, forwards. And its numbers."""

from __future__ import annotations

import os

from vdc.model.errors import InvalidError
from vdc.model.units import KIB

BLOCK_BYTES = 512
_WINDOW_BYTES = 64 * KIB
_BASE_256 = 0x80


class LayerError(InvalidError):
    """A layer is not what a container engine would take."""

    default_code = "image-layer-invalid"
    default_hint = "is the image whole? fetch or build it again"


class Window:
    """Parts of a file of `size` bytes by their place; neighbours come out of one read."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self._descriptor = descriptor
        self._place = 0
        self._bytes = b""

    def read(self, place: int, count: int) -> bytes:
        """Exactly so many bytes; LayerError where the file ends before."""
        start = place - self._place
        if not 0 <= start <= start + count <= len(self._bytes):
            self._bytes = os.pread(self._descriptor, max(count, _WINDOW_BYTES), place)
            self._place, start = place, 0
        part = self._bytes[start : start + count]
        if len(part) != count:
            raise LayerError("it ends too early: it is cut off")
        return part


def to_number(field: bytes, what: str) -> int:
    """A number of a header: octal digits, or GNU's binary form for what does not fit."""
    if field[0] & _BASE_256:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        return value - (1 << bits) if field[0] & 0x40 else value & ~(1 << (bits - 1))
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass
    raise LayerError(f"a header's {what} is {field[:12]!r}")
