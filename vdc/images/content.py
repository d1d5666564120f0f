"""Bytes at places: what the parsers of disk formats, partition tables and file systems read. Pure, but for FileContent.

A parser asks for what its input tells it to; so every answer is bounded, short at the end, and never an exception.
"""

from __future__ import annotations

import os
from typing import Protocol

MOST_AT_ONCE = 16 << 20


class Content(Protocol):
    """`read` gives the bytes that are there: fewer than asked for at the end, none behind it."""

    size_bytes: int

    def read(self, place: int, length: int) -> bytes:
        """At most MOST_AT_ONCE bytes."""
        ...


class BytesContent:
    """Of what is in memory."""

    def __init__(self, data: bytes, size_bytes: int | None = None) -> None:
        """`size_bytes`: as if zeros followed, up to that size."""
        self._data = data
        self.size_bytes = len(data) if size_bytes is None else size_bytes

    def read(self, place: int, length: int) -> bytes:
        """See `Content`."""
        length = clamp(place, length, self.size_bytes)
        return self._data[place : place + length].ljust(length, b"\0") if length else b""


class FileContent:
    """Of an open file; reads at places, so the file's own position does not matter. Raises OSError."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self._descriptor = descriptor
        self.size_bytes = size_bytes

    def read(self, place: int, length: int) -> bytes:
        """See `Content`."""
        length = clamp(place, length, self.size_bytes)
        return os.pread(self._descriptor, length, place) if length else b""


class Window:
    """A part of another content, as if it were a file of its own."""

    def __init__(self, whole: Content, place: int, size_bytes: int) -> None:
        self._whole = whole
        self._place = place
        self.size_bytes = clamp(place, size_bytes, whole.size_bytes, most=size_bytes)

    def read(self, place: int, length: int) -> bytes:
        """See `Content`."""
        length = clamp(place, length, self.size_bytes)
        return self._whole.read(self._place + place, length) if length else b""


def clamp(place: int, length: int, size_bytes: int, *, most: int = MOST_AT_ONCE) -> int:
    """How much of `length` bytes at `place` there is."""
    return max(0, min(length, size_bytes - place, most)) if place >= 0 else 0


def read_exactly(content: Content, place: int, length: int) -> bytes | None:
    """All of it, or None."""
    found = content.read(place, length)
    return found if len(found) == length else None
