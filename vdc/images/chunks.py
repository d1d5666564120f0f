"""The chunks of a blob: what a host that fetches one checks piece by piece, so that it can tell which peer lied.

A blob's chunk list is the sha256 of each of its chunks, 32 bytes each, one after the other. The list's own digest
stands in the image's record, so it can come from anybody. A blob of one chunk needs no list: the digest of the
chunk is the blob's. Pure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from vdc.model.errors import InvalidError
from vdc.model.image import Blob

CHUNK_BYTES = 4 * 1024**2  # part of what is stored in records: never change it
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class ChunkList:
    """Of one blob. `digests` is what travels."""

    size_bytes: int
    digests: bytes

    @classmethod
    def of(cls, blob: Blob, digests: bytes) -> ChunkList:
        """`InvalidError` (`chunks-invalid`) where the list is not as long as the blob needs it."""
        if len(digests) != list_bytes(blob.size_bytes):
            raise InvalidError(
                f"a blob of {blob.size_bytes} bytes has no list of {len(digests)} bytes",
                code="chunks-invalid",
            )
        return cls(blob.size_bytes, digests)

    @classmethod
    def of_small(cls, blob: Blob) -> ChunkList:
        """Of a blob of one chunk, or of none."""
        digests = bytes.fromhex(blob.digest.removeprefix("sha256:")) if blob.size_bytes else b""
        return cls.of(blob, digests)

    @property
    def digest(self) -> str:
        """Of the list."""
        return "sha256:" + hashlib.sha256(self.digests).hexdigest()

    @property
    def count(self) -> int:
        """Number of chunks."""
        return len(self.digests) // DIGEST_BYTES

    def length(self, index: int) -> int:
        """Bytes of one chunk; the last one may be shorter."""
        return min(CHUNK_BYTES, self.size_bytes - index * CHUNK_BYTES)

    def matches(self, index: int, content: bytes | memoryview) -> bool:
        """Whether this is the content of a chunk."""
        wanted = self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        return hashlib.sha256(content).digest() == wanted

    def is_hole(self, index: int) -> bool:
        """Whether a chunk is nothing but zeros: nobody has to send it."""
        wanted = self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        return wanted == _digest_of_zeros(self.length(index))


class ChunkHasher:
    """Makes the list of a blob whose bytes come in order."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._open = hashlib.sha256()
        self._open_bytes = 0
        self.size_bytes = 0

    def update(self, content: bytes | memoryview) -> None:
        """The next bytes."""
        left = memoryview(content)
        while left:
            part = left[: CHUNK_BYTES - self._open_bytes]
            self._open.update(part)
            self._open_bytes += len(part)
            self.size_bytes += len(part)
            left = left[len(part) :]
            if self._open_bytes == CHUNK_BYTES:
                self._close_chunk()

    def finish(self) -> ChunkList:
        """The list of everything so far; call it once, at the end."""
        if self._open_bytes:
            self._close_chunk()
        return ChunkList(self.size_bytes, bytes(self._digests))

    def _close_chunk(self) -> None:
        self._digests += self._open.digest()
        self._open, self._open_bytes = hashlib.sha256(), 0


def list_bytes(size_bytes: int) -> int:
    """How long the list of a blob of this size is."""
    return -(-size_bytes // CHUNK_BYTES) * DIGEST_BYTES


@lru_cache(maxsize=8)
def _digest_of_zeros(length: int) -> bytes:
    return hashlib.sha256(bytes(length)).digest()
