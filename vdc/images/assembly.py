"""A blob whose chunks come in any order, from several hosts: `.fetch-HEX` in its store.

Nothing but that file is remembered: what is there after a restart is what matches the chunk list. What comes later is
checked once, as a whole, when it is complete; only where that fails each new chunk is compared with the list, and
the wrong ones are missing again. The methods block and belong into a thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from vdc.images.blobs import BlobStore
from vdc.images.chunks import CHUNK_BYTES, ChunkList
from vdc.images.writing import FLUSH_BYTES, open_locked, write_all
from vdc.model.errors import InvalidError
from vdc.model.image import Blob


class Assembly:
    """One per blob and process; `close` it."""

    def __init__(self, store: BlobStore, blob: Blob, chunks: ChunkList) -> None:
        self.blob, self.chunks = blob, chunks
        self._store, self._path = store, store.fetch_path(blob.digest)
        self._file = -1
        self._is_done = False
        self._present = [False] * chunks.count
        self._unproven: set[int] = set()  # came since, and nobody has compared them with the list
        self._hash, self._hashed = hashlib.sha256(), 0

    def open(self) -> None:
        """Take in what is there already. Raises ConflictError (`blob-busy`), RefusedError (`no-space`)."""
        self._store.prepare()
        self._file = open_locked(self._path)
        self._take_in()
        self._store.check_space(self.missing_bytes)
        self._promise()

    def _take_in(self) -> None:
        """What a former attempt left, and the holes, which nobody has to send."""
        data = _chunks_with_data(self._file)
        os.ftruncate(self._file, self.blob.size_bytes)
        for index in range(self.chunks.count):
            if index in data:
                self._present[index] = self.chunks.matches(index, self._read(index))
            else:
                self._present[index] = self.chunks.is_hole(index)

    def _read(self, index: int) -> bytes:
        return os.pread(self._file, self.chunks.length(index), index * CHUNK_BYTES)

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._path.parent

    @property
    def has_content(self) -> bool:
        """Whether there is anything that somebody had to send."""
        return any(present and not self.chunks.is_hole(index) for index, present in enumerate(self._present))

    @property
    def missing(self) -> list[int]:
        """Chunks that have to come, in order."""
        return [index for index, present in enumerate(self._present) if not present]

    @property
    def missing_bytes(self) -> int:
        """Their size."""
        return sum(self.chunks.length(index) for index in self.missing)

    def _promise(self) -> None:
        self._store.promised[self._path.name] = self.missing_bytes

    def write(self, place: int, content: bytes | memoryview) -> None:
        """Bytes of a chunk that is missing. RefusedError (`no-space`) where the disk has filled up meanwhile."""
        self._store.check_space(0)  # others write too
        write_all(self._file, content, place)

    def complete(self, index: int) -> None:
        """All of a chunk was written. Does not block."""
        self._present[index] = True
        self._unproven.add(index)
        self._promise()

    def hash_on(self) -> None:
        """Go on with the digest of the whole as far as it is there, so that little is left for the end."""
        while self._hashed < self.chunks.count and self._present[self._hashed]:
            self._hash.update(self._read(self._hashed))
            self._hashed += 1
            if self._hashed % (FLUSH_BYTES // CHUNK_BYTES) == 0:
                os.fdatasync(self._file)

    def publish(self) -> list[int]:
        """Verify the whole and give it its name. Otherwise the chunks that were wrong, and are missing again.

        Raises InvalidError (`digest-mismatch`) where all match the list: it is not this blob's; nothing is left then.
        """
        self.hash_on()
        assert self._hashed == self.chunks.count
        if "sha256:" + self._hash.hexdigest() == self.blob.digest:
            os.fsync(self._file)
            self._store.take(self.blob.digest, self._path, self.chunks)
            self._is_done = True
            return []
        wrong = [i for i in sorted(self._unproven) if not self.chunks.matches(i, self._read(i))]
        self._unproven.clear()
        self._hash, self._hashed = hashlib.sha256(), 0
        if not wrong:
            self.discard()
            raise InvalidError(
                f"the chunk list in the record of {self.blob.digest} is not its own",
                hint="import the image again",
                code="digest-mismatch",
            )
        for index in wrong:
            self._present[index] = False
        self._promise()
        return wrong

    def discard(self) -> None:
        """Nothing of what has come is kept: it is worth nothing, or takes room that others need."""
        self._present = [False] * self.chunks.count

    def close(self) -> None:
        """What has come stays for another attempt, where there is anything."""
        self._store.promised.pop(self._path.name, None)
        if self._file < 0:
            return
        if not self._is_done and not self.has_content:
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1


def _chunks_with_data(file: int) -> set[int]:
    """Chunks that are not altogether holes."""
    found: set[int] = set()
    place, end = 0, os.fstat(file).st_size
    while place < end:
        try:
            begin = os.lseek(file, place, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        place = os.lseek(file, begin, os.SEEK_HOLE)
        found.update(range(begin // CHUNK_BYTES, (place - 1) // CHUNK_BYTES + 1))
    return found
