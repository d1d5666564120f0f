"""Unpack a compressed file into a scratch folder, by a program in the sandbox, and not without end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vdc.confinement.limits import ToolLimits
from vdc.images.formats.problems import unsafe
from vdc.images.scratch import Scratch
from vdc.images.tool import Tool, ToolFailedError, stream_tool
from vdc.model.errors import InvalidError
from vdc.model.units import GIB, MIB, format_size

_PROGRAMS = {
    "gzip": ("pigz", "-dc"),  # reads, unpacks and writes at the same time
    "bzip2": ("bzip2", "-dc"),
    "xz": ("xz", "-dc", "--memlimit-decompress=1GiB", "--no-warn"),
    "zstd": ("zstd", "-dcq", "--memory=2048MB"),
}
_LIMITS = ToolLimits(memory_bytes=4 * GIB, file_bytes=0, processor_s=24 * 3600)
_DEADLINE_S = 24 * 3600.0
_MOST_BYTES, _ALWAYS_BYTES, _RATIO = 1024 * GIB, 64 * GIB, 1000
_CHUNK_BYTES, _BLOCK_BYTES = MIB, 64 * 1024
_LOOK_BYTES = 64 * MIB
_ZEROS = bytes(_CHUNK_BYTES)


def most_unpacked(packed_bytes: int) -> int:
    """How large a file of so many bytes may become. Empty disks compress well, so the first 64 GiB always may be."""
    return min(_MOST_BYTES, max(_ALWAYS_BYTES, _RATIO * packed_bytes))


def unpack(
    source: BinaryIO,
    packing: str,
    scratch: Scratch,
    name: str,
    progress: Callable[[int, int], None],
    *,
    hashing: Callable[[bytes], None] = lambda chunk: None,
) -> Path:
    """Unpack an open file into a file `name` of `scratch`, with holes where it has zeros; returns its path.

    `progress`: bytes of the source that were read, and all. `hashing` gets what comes out. Raises InvalidError
    (`image-unsafe`: damaged, cut off, too large), RefusedError (`no-space`, `image-tool-missing`).
    """
    packed_bytes = os.fstat(source.fileno()).st_size
    most_bytes = most_unpacked(packed_bytes)
    path = scratch.own(name)
    source.seek(0)
    tool = Tool(_PROGRAMS[packing], _LIMITS, _DEADLINE_S)
    try:
        with (
            scratch.filling(),
            stream_tool(tool, stdin=source) as stream,
            path.open("xb", buffering=0) as target,
        ):
            size_bytes, looked_at = 0, 0
            while chunk := stream.read(_CHUNK_BYTES):
                size_bytes += len(chunk)
                if size_bytes > most_bytes:
                    raise unsafe(
                        packing, f"it unpacks to more than {format_size(most_bytes)}", "unpack it yourself"
                    )
                _write_sparse(target.fileno(), chunk, size_bytes - len(chunk))
                hashing(chunk)
                if size_bytes - looked_at >= _LOOK_BYTES:
                    looked_at = size_bytes
                    scratch.need(0)
                progress(os.lseek(source.fileno(), 0, os.SEEK_CUR), packed_bytes)
            target.truncate(size_bytes)
    except ToolFailedError as error:
        raise _damaged(packing, error) from error
    return path


def _write_sparse(descriptor: int, chunk: bytes, place: int) -> None:
    """What is not zero, in blocks."""
    if chunk == _ZEROS[: len(chunk)]:
        return
    for at in range(0, len(chunk), _BLOCK_BYTES):
        block = chunk[at : at + _BLOCK_BYTES]
        if block != _ZEROS[: len(block)]:
            _write_all(descriptor, block, place + at)


def _write_all(descriptor: int, block: bytes, place: int) -> None:
    left = memoryview(block)
    while left:
        written = os.pwrite(descriptor, left, place)
        left, place = left[written:], place + written


def _damaged(packing: str, error: ToolFailedError) -> InvalidError:
    return unsafe(packing, str(error), "is the file damaged or cut off? Fetch it again")
