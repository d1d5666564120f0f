"""How much of a raw disk is nothing: by its content alone, so that a copy with holes and one without are alike.

A sample of blocks decides, always the same ones: a large disk is not read twice for a question of convenience.
"""

from __future__ import annotations

import os

BLOCK_BYTES = 64 * 1024
MOST_SAMPLES = 256  # this and the blocks that are looked at decide what becomes of a disk: never change them
_SCATTER = 2_654_435_761  # Knuth's multiplier: what repeats on a disk does not fall in step with the samples
_ZEROS = bytes(BLOCK_BYTES)
_WORTH_IT = 4  # a quarter


def is_mostly_empty(descriptor: int, size_bytes: int) -> bool:
    """Whether a quarter of its blocks or more seem to be zeros; exact up to 16 MiB. Raises OSError."""
    samples = sampled_blocks(-(-size_bytes // BLOCK_BYTES))
    wanted = -(-len(samples) // _WORTH_IT)
    most_full = len(samples) - wanted
    empty = full = 0
    for block in samples:
        content = os.pread(descriptor, BLOCK_BYTES, block * BLOCK_BYTES)
        if _ZEROS.startswith(content):
            empty += 1
        else:
            full += 1
        if empty >= wanted or full > most_full:
            break
    return empty >= wanted


def sampled_blocks(blocks: int) -> list[int]:
    """One of each of the equal parts of a disk, somewhere in it; all of a small disk."""
    count = min(blocks, MOST_SAMPLES)
    found = []
    for index in range(count):
        first, end = index * blocks // count, (index + 1) * blocks // count
        found.append(first + index * _SCATTER % (1 << 32) % (end - first))
    return found
