"""A disk into a repository: the parts that an agent sends, in order, become chunks, several at a time.

Of a disk whose changes alone are sent, a chunk that no part is about is the one of the backup before; one that the
parts cover in part is that one with the changes in it. A stream that breaks off goes on at the first chunk that was
not complete. Holds a few chunks in memory, however large the disk is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from vdc.api.backups import Part, PartKind
from vdc.backup.record import CHUNK_BYTES, ZEROS, chunk_count, chunk_length
from vdc.backup.repository import Repository
from vdc.model.errors import UnavailableError

AT_ONCE: Final = 4  # chunks that are packed and written
_ATTEMPTS: Final = 5  # without any progress
_AGAIN_S: Final = 1.0

Stream = Callable[[int], AsyncGenerator[Part, None]]  # the parts from a byte on
Told = Callable[[int, int], None]  # bytes of the disk that are done, and all


@dataclass(slots=True)
class Written:
    """What one disk came to."""

    chunks: list[str]
    read_bytes: int = 0
    written_bytes: int = 0


@dataclass(slots=True)
class _Chunk:
    """One chunk that parts are about; `covered` counts their bytes, which do not overlap."""

    index: int
    parts: list[tuple[int, int, bytes]] = field(default_factory=list)  # offset in it, length, data or zeros
    covered: int = 0


class DiskWriter:
    """Of one disk. `before`: the chunks of the backup whose changes are sent; else None. `again`: see `put`."""

    def __init__(
        self, repository: Repository, virtual_bytes: int, before: Sequence[str] | None = None,
        *, again: bool = False, told: Told = lambda done, total: None,
    ) -> None:  # fmt: skip
        self._repository = repository
        self._virtual_bytes = virtual_bytes
        self._before = before
        self._again = again
        self._told = told
        nothing = [ZEROS] * chunk_count(virtual_bytes)
        self._written = Written(list(before) if before is not None else nothing)
        self._free = asyncio.Semaphore(AT_ONCE)
        self._next = 0  # the first chunk that is not complete

    async def write(self, stream: Stream) -> Written:
        """Read to the end. Raises what the repository and the stream raise."""
        attempts = 0
        while True:
            before = self._next
            broken = await self._through(stream)
            if broken is None:
                return self._written
            attempts = attempts + 1 if self._next == before else 0
            if attempts >= _ATTEMPTS:
                raise broken
            await asyncio.sleep(_AGAIN_S)

    async def _through(self, stream: Stream) -> UnavailableError | None:
        """One stream, to its end or to where it broke off. Chunks that were complete are written in any case."""
        broken = None
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    await self._take(stream(self._next * CHUNK_BYTES), tasks)
                except UnavailableError as error:
                    broken = error
        except BaseExceptionGroup as group:
            raise _first(group) from None
        return broken

    async def _take(self, parts: AsyncGenerator[Part, None], tasks: asyncio.TaskGroup) -> None:
        chunk = _Chunk(self._next)
        async with aclosing(parts):
            async for part in parts:
                if part.kind is PartKind.END:
                    break
                self._written.read_bytes += len(part.data)
                for index, at, length, data in _split(part):
                    if index != chunk.index:
                        await self._begin(chunk, tasks)
                        chunk = _Chunk(index)
                    chunk.parts.append((at, length, data))
                    chunk.covered += length
                self._told(part.offset + part.length, self._virtual_bytes)
        await self._begin(chunk, tasks)
        self._next = len(self._written.chunks)

    async def _begin(self, chunk: _Chunk, tasks: asyncio.TaskGroup) -> None:
        """Write a complete chunk while the next ones come."""
        if chunk.parts:
            await self._free.acquire()
            tasks.create_task(self._put(chunk), name=f"chunk {chunk.index}")
        self._next = chunk.index + 1

    async def _put(self, chunk: _Chunk) -> None:
        try:
            digest, size_bytes = await asyncio.to_thread(self._stored, chunk)
        finally:
            self._free.release()
        self._written.chunks[chunk.index] = digest
        self._written.written_bytes += size_bytes

    def _stored(self, chunk: _Chunk) -> tuple[str, int]:
        length = chunk_length(self._virtual_bytes, chunk.index)
        if self._before is not None and chunk.covered < length:
            content = bytearray(self._repository.get(self._before[chunk.index], length))
        else:
            content = bytearray(length)
        for at, size, data in chunk.parts:
            content[at : at + size] = data or bytes(size)
        return self._repository.put(bytes(content), again=self._again)


def _split(part: Part) -> list[tuple[int, int, int, bytes]]:
    """Chunk, offset in it, length and data of each piece of a part. Zeros may span many chunks."""
    pieces = []
    at, left = part.offset, part.length
    while left:
        index, inside = divmod(at, CHUNK_BYTES)
        length = min(left, CHUNK_BYTES - inside)
        done = at - part.offset
        pieces.append((index, inside, length, part.data[done : done + length]))
        at, left = at + length, left - length
    return pieces


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
