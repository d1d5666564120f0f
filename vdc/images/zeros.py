"""How much of a raw disk is nothing: by its content alone, so that a copy with holes and one without are alike."""

from __future__ import annotations

import errno
import os

BLOCK_BYTES = 64 * 1024
_BATCH_BYTES = 4 * 1024**2
_ZEROS = bytes(BLOCK_BYTES)
_WORTH_IT = 4  # a quarter


def is_mostly_empty(descriptor: int, size_bytes: int) -> bool:
    """Whether a quarter of its blocks or more are zeros. Reads until that is clear. Raises OSError."""
    blocks = -(-size_bytes // BLOCK_BYTES)
    wanted, most_full = -(-blocks // _WORTH_IT), blocks - -(-blocks // _WORTH_IT)
    empty = full = place = 0
    while place < size_bytes and empty < wanted and full <= most_full:
        start = _next_data(descriptor, place, size_bytes) // BLOCK_BYTES * BLOCK_BYTES
        empty += max(0, start - place) // BLOCK_BYTES
        place = max(place, start)
        batch = os.pread(descriptor, min(_BATCH_BYTES, size_bytes - place), place)
        if not batch:
            break
        found = sum(
            batch.startswith(_ZEROS[: len(batch) - at], at) for at in range(0, len(batch), BLOCK_BYTES)
        )
        empty, full = empty + found, full + -(-len(batch) // BLOCK_BYTES) - found
        place += len(batch)
    return empty >= wanted


def _next_data(descriptor: int, place: int, size_bytes: int) -> int:
    """Where the next byte is that may not be zero."""
    try:
        return os.lseek(descriptor, place, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size_bytes
        return place  # a file system that does not say
