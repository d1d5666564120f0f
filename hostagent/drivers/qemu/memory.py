"""The guest's memory as it lies in a QEMU process: where its blocks are, and digests of them.

Read from outside by /proc/PID/mem, so that it works while the process is frozen. The guest has to stand still
meanwhile, else a digest is of no moment in particular.

Read-only blocks are left out. They are the firmware's tables and ROMs, which belong to QEMU and not to the guest:
a secondary's QEMU resets its devices in each checkpoint and writes its own initial ACPI tables there again, and
they are built anew when a guest that was reset reads them (found by comparing them: five pages differ always).
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpError, QmpSession
from vdc.model.units import MIB, TIB

PAGE_BYTES = 4096
CHUNK_BYTES = MIB
_DIGITS = 32  # of a SHA-256, which processors compute faster than anything else of its strength
_PAGEMAP_BYTES, _IN_USE = 8, 0xC0
_HEX = r"0x([0-9a-f]+)"
# QEMU says how much there is, and may have been taken over by its guest.
_HIGHEST_ADDRESS, _MOST_BLOCKS, _MOST_BYTES = 2**57, 256, 2 * TIB
_PAGEMAP_PIECE_BYTES = 8 * MIB
_ROW = re.compile(rf"\s*([!-~]{{1,255}})\s+\d+ \w+\s+{_HEX}\s+{_HEX}\s+{_HEX}\s+{_HEX}\s+(r[ow])\s*")


@dataclass(frozen=True, slots=True)
class RamBlock:
    """One block of guest memory: its name in the migration stream, and where it is mapped."""

    name: str
    address: int
    size_bytes: int


def parse_ram_blocks(text: str) -> tuple[RamBlock, ...]:
    """The writable blocks in the table that `x-query-ramblock` prints; raises ValueError where it is another one."""
    title, *rows = [line for line in text.splitlines() if line.strip()] or [""]
    if title.split() != ["Block", "Name", "PSize", "Offset", "Used", "Total", "HVA", "RO"]:
        raise ValueError(f"an unknown table of memory blocks: {title[:100]!r}")
    blocks: list[RamBlock] = []
    for row in rows:
        match = _ROW.fullmatch(row)
        if match is None:
            raise ValueError(f"an unknown line in the table of memory blocks: {row[:100]!r}")
        name, _offset, used, _total, address, access = match.groups()
        if max(int(address, 16), int(used, 16)) > _HIGHEST_ADDRESS or len(blocks) >= _MOST_BLOCKS:
            raise ValueError("more memory than a process has")
        if access == "rw":
            blocks.append(RamBlock(name=name, address=int(address, 16), size_bytes=int(used, 16)))
    if sum(block.size_bytes for block in blocks) > _MOST_BYTES:
        raise ValueError("more memory than a guest has")
    return tuple(sorted(blocks, key=lambda block: block.name))


async def ram_blocks(qmp: QmpSession) -> tuple[RamBlock, ...]:
    """The guest's memory blocks. Raises a QmpError (`memory-unknown` where the answer is not understood)."""
    answer = await qmp.execute(Command.X_QUERY_RAMBLOCK)
    try:
        return parse_ram_blocks(answer["human-readable-text"])
    except ValueError as error:
        raise QmpError(str(error), code="memory-unknown") from error


def chunk_digests(pid: int, block: RamBlock) -> tuple[str, ...]:
    """A digest per MiB of a block, in order, by all processors. Blocking; raises OSError where the process ended.

    Memory that the process never touched is not read: it is zero.
    """
    touched = _touched_chunks(pid, block)
    offsets = range(0, block.size_bytes, CHUNK_BYTES)
    with (
        Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):

        def digest(offset: int) -> str:
            if offset // CHUNK_BYTES in touched:
                return _digest(memory.fileno(), block, offset, CHUNK_BYTES)
            return _digest_of_zeros(min(CHUNK_BYTES, block.size_bytes - offset))

        return tuple(pool.map(digest, offsets))


def page_digests(pid: int, block: RamBlock, chunks: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """A digest per page of the given chunks. Blocking; raises as `chunk_digests`."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        return {
            chunk: tuple(
                _digest(memory.fileno(), block, offset, PAGE_BYTES)
                for offset in range(
                    chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, block.size_bytes), PAGE_BYTES
                )
            )
            for chunk in chunks
        }


def differing(mine: Sequence[str], theirs: Sequence[str]) -> tuple[int, ...]:
    """Where two lists of digests differ; a missing digest differs."""
    longest = max(len(mine), len(theirs))
    pairs = ((n, mine[n : n + 1], theirs[n : n + 1]) for n in range(longest))
    return tuple(n for n, one, other in pairs if tuple(one) != tuple(other))


def _touched_chunks(pid: int, block: RamBlock) -> frozenset[int]:
    """The MiB of which some page is in memory or swapped out (Documentation/admin-guide/mm/pagemap.rst).

    The first one always counts: reading it shows that the block is where it is said to be.
    """
    whole = -(-block.size_bytes // PAGE_BYTES) * _PAGEMAP_BYTES
    first = block.address // PAGE_BYTES * _PAGEMAP_BYTES
    per_chunk = CHUNK_BYTES // PAGE_BYTES * _PAGEMAP_BYTES
    found = {0}
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        for piece in range(0, whole, _PAGEMAP_PIECE_BYTES):
            wanted = min(_PAGEMAP_PIECE_BYTES, whole - piece)
            data = os.pread(pagemap.fileno(), wanted, first + piece)
            if len(data) != wanted:
                raise OSError(f"{block.name}: the pages of the process cannot be looked up")
            # The top byte of an entry (they are little-endian) carries "present" and "swapped".
            found.update(
                (piece + begin) // per_chunk
                for begin in range(0, len(data), per_chunk)
                if any(byte & _IN_USE for byte in data[begin + 7 : begin + per_chunk : _PAGEMAP_BYTES])
            )
    return frozenset(found)


@functools.cache
def _digest_of_zeros(size_bytes: int) -> str:
    return hashlib.sha256(bytes(size_bytes)).hexdigest()[:_DIGITS]


def _digest(descriptor: int, block: RamBlock, offset: int, size_bytes: int) -> str:
    wanted = min(size_bytes, block.size_bytes - offset)
    data = os.pread(descriptor, wanted, block.address + offset)
    if len(data) != wanted:
        raise OSError(f"{block.name}: {len(data)} of {wanted} bytes could be read at {offset:#x}")
    return hashlib.sha256(data).hexdigest()[:_DIGITS]
