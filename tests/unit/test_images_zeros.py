"""How much of a raw disk is nothing, told from a sample of its blocks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vdc.images.zeros import BLOCK_BYTES, MOST_SAMPLES, is_mostly_empty, sampled_blocks
from vdc.model.units import GIB, MIB


def is_empty(path: Path) -> bool:
    with path.open("rb") as file:
        return is_mostly_empty(file.fileno(), path.stat().st_size)


@pytest.mark.parametrize("blocks", [0, 1, 255, 256, 257, 1000, 16_384, 64 * 2**30 // 65536 + 1])
def test_each_equal_part_of_a_disk_is_looked_at_once(blocks: int) -> None:
    found = sampled_blocks(blocks)
    assert len(found) == min(blocks, MOST_SAMPLES)
    for index, block in enumerate(found):
        assert index * blocks // len(found) <= block < (index + 1) * blocks // len(found)


def test_what_is_looked_at_never_changes() -> None:
    """Another choice would make another image of the same file."""
    assert sampled_blocks(GIB // BLOCK_BYTES)[:6] == [0, 113, 162, 211, 260, 373]
    assert sum(sampled_blocks(GIB // BLOCK_BYTES)) == 2097024


@pytest.mark.parametrize(("full", "wanted"), [(0, True), (6, True), (7, False), (8, False)])
def test_of_a_small_disk_every_block_counts(tmp_path: Path, full: int, wanted: bool) -> None:
    (tmp_path / "disk").write_bytes(bytes(BLOCK_BYTES - 1) + b"x" + bytes(8 * BLOCK_BYTES - BLOCK_BYTES))
    with (tmp_path / "disk").open("r+b") as file:
        for block in range(8):
            file.seek(block * BLOCK_BYTES)
            file.write((b"x" if block < full else b"\0") * BLOCK_BYTES)
    assert is_empty(tmp_path / "disk") is wanted


@pytest.mark.parametrize(("share", "wanted"), [(0.65, True), (0.85, False)])
def test_of_a_large_disk_a_sample_is_enough_with_and_without_holes(
    tmp_path: Path, share: float, wanted: bool
) -> None:
    whole, sparse = tmp_path / "whole", tmp_path / "sparse"
    size_bytes = 64 * MIB
    content = b"x" * int(size_bytes * share)
    whole.write_bytes(content.ljust(size_bytes, b"\0"))
    sparse.write_bytes(content)
    os.truncate(sparse, size_bytes)
    assert is_empty(whole) is is_empty(sparse) is wanted


def test_a_last_block_that_is_cut_short(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x" * BLOCK_BYTES + bytes(512))
    assert is_empty(tmp_path / "disk")
