"""Chunk lists: what a chunk has to be, and which chunks nobody has to send."""

from __future__ import annotations

import hashlib
import random

import pytest

from vdc.images.chunks import CHUNK_BYTES, ChunkHasher, ChunkList
from vdc.model.errors import InvalidError
from vdc.model.image import Blob

CONTENT = random.Random(2).randbytes(CHUNK_BYTES) + bytes(CHUNK_BYTES) + b"end"


def list_of(content: bytes, step: int) -> ChunkList:
    hasher = ChunkHasher()
    for place in range(0, len(content), step):
        hasher.update(content[place : place + step])
    return hasher.finish()


@pytest.mark.parametrize("step", [100_003, CHUNK_BYTES, len(CONTENT)])
def test_the_list_is_the_same_however_the_bytes_come(step: int) -> None:
    chunks = list_of(CONTENT, step)
    parts = [CONTENT[:CHUNK_BYTES], bytes(CHUNK_BYTES), b"end"]
    assert chunks.digests == b"".join(hashlib.sha256(part).digest() for part in parts)
    assert [chunks.length(index) for index in range(chunks.count)] == [CHUNK_BYTES, CHUNK_BYTES, 3]
    assert [chunks.is_hole(index) for index in range(chunks.count)] == [False, True, False]
    assert [chunks.matches(0, part) for part in parts] == [True, False, False]


@pytest.mark.parametrize("content", [b"", b"x", bytes(CHUNK_BYTES)])
def test_a_blob_of_one_chunk_needs_no_list(content: bytes) -> None:
    blob = Blob(digest="sha256:" + hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    assert ChunkList.of_small(blob) == list_of(content, 1000)


@pytest.mark.parametrize("length", [0, 32, 64, 95, 97, 128])
def test_a_list_of_another_length_is_refused(length: int) -> None:
    blob = Blob(digest="sha256:" + "0" * 64, size_bytes=len(CONTENT))
    with pytest.raises(InvalidError):
        ChunkList.of(blob, bytes(length))
