"""One blob on its way into a store, byte after byte: written to a file of its own, hashed on the way.

The file is locked while it is written, so that `BlobStore.sweep` can tell what a crash left behind. Zeros become
holes. The methods block and belong into a thread (`in_thread`), but for `accept`.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from vdc.images.chunks import ChunkHasher, ChunkList
from vdc.model.errors import ConflictError, InvalidError, RefusedError
from vdc.model.units import format_size

T = TypeVar("T")

FILE_MODE = 0o644
FLUSH_BYTES = (
    64 * 1024**2
)  # at most so much waits for the disk: etcd writes there too, and waits for all of it
_BATCH_BYTES = 1024**2


class BlobWriter:
    """To a file at `path`; `close` it, whatever happened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._is_done = False
        self._hash, self._chunks = hashlib.sha256(), ChunkHasher()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.size_bytes = 0

    @property
    def name(self) -> str:
        """Of the file."""
        return self._path.name

    def open(self) -> None:
        """What is there already is gone on with. ConflictError (`blob-busy`) where another writes there."""
        self._file = open_locked(self._path)
        while content := os.pread(self._file, _BATCH_BYTES, self.size_bytes):
            self._hash.update(content)
            self._chunks.update(content)
            self.size_bytes += len(content)

    def accept(self, content: bytes) -> bool:
        """Keep the next bytes; says whether it is time to flush. Does not block."""
        self._waiting.append(content)
        self._waiting_bytes += len(content)
        self.size_bytes += len(content)
        return self._waiting_bytes >= _BATCH_BYTES

    def flush(self) -> None:
        """Write what was accepted."""
        content = b"".join(self._waiting)
        place = self.size_bytes - self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0
        self._hash.update(content)
        self._chunks.update(content)
        if content == bytes(len(content)):
            os.ftruncate(self._file, self.size_bytes)
        else:
            write_all(self._file, content, place)
        if self.size_bytes // FLUSH_BYTES > place // FLUSH_BYTES:
            os.fdatasync(self._file)

    def finish(self) -> None:
        """Everything is on the disk."""
        self.flush()
        os.fsync(self._file)

    @property
    def digest(self) -> str:
        """Of everything that was flushed."""
        return "sha256:" + self._hash.hexdigest()

    def publish(self, path: Path) -> ChunkList:
        """Give the file its final name; its chunk list. Call it once."""
        chunks = self._chunks.finish()
        self._path.replace(path)
        self._is_done = True
        sync_folder(path.parent)
        return chunks

    def close(self, *, keep: bool = False) -> None:
        """`keep`: what was not published stays, to be gone on with."""
        if self._file < 0:
            return
        if not self._is_done:
            if keep:
                with suppress(OSError):
                    self.flush()
            else:
                self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1


def open_locked(path: Path) -> int:
    """A file to write that nobody else writes, made where it is absent. ConflictError (`blob-busy`).

    Between its making and its lock a sweep may take a new one for a leftover; then it is made again.
    """
    while True:
        file, is_new = _open(path)
        try:
            lock(file, path)
            os.fchmod(file, FILE_MODE)
        except ConflictError:
            os.close(file)
            if not is_new:
                raise
        except BaseException:
            os.close(file)
            raise
        else:
            return file


def _open(path: Path) -> tuple[int, bool]:
    """For reading and writing, and whether it is new."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        with suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, FILE_MODE), True
        with suppress(FileNotFoundError):
            return os.open(path, flags), False


def lock(file: int, path: Path) -> None:
    """Raises ConflictError (`blob-busy`) where another writer holds the file, or has just given it another name."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_it = os.path.samestat(os.fstat(file), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        is_it = False
    if not is_it:
        raise busy()


def busy() -> ConflictError:
    """`blob-busy`."""
    return ConflictError("the blob is being written by another", code="blob-busy", hint="wait for it")


def write_all(file: int, content: bytes | memoryview, place: int) -> None:
    """`os.pwrite`, all of it."""
    left = memoryview(content)
    while left:
        written = os.pwrite(file, left, place)
        left, place = left[written:], place + written


def sync_folder(folder: Path) -> None:
    """The names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _be_modest() -> None:
    """The agent has a higher priority than guests; its work on images has not."""
    thread = threading.get_native_id()
    if os.getpriority(os.PRIO_PROCESS, thread) < 0:
        os.setpriority(os.PRIO_PROCESS, thread, 0)


# Of its own: a slow disk that holds all of them up must not hold up what else the agent has to write.
_POOL = ThreadPoolExecutor(8, "images", _be_modest)


async def in_thread(work: Callable[[], T], folder: Path) -> T:
    """Run blocking file work; a full disk becomes `no-space`. A cancellation waits for the thread to end."""
    task = asyncio.get_running_loop().run_in_executor(_POOL, work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(f"the disk under {folder} is full") from error
        raise


def check_content(digest: str, size_bytes: int | None, writer: BlobWriter) -> None:
    """Raises InvalidError (`digest-mismatch`) where what was written is not what was announced."""
    if size_bytes is not None and writer.size_bytes != size_bytes:
        found = f"at least {writer.size_bytes}" if writer.size_bytes > size_bytes else str(writer.size_bytes)
        raise InvalidError(
            f"the content has {found} bytes, announced were {size_bytes}", code="digest-mismatch"
        )
    if writer.digest != digest:
        raise InvalidError(
            f"the content is {writer.digest}, announced was {digest}",
            hint="was the file changed while it was sent? Send it again",
            code="digest-mismatch",
        )


def no_space(reason: str) -> RefusedError:
    """`no-space`."""
    return RefusedError(
        f"there is no space for the image: {reason}",
        hint="remove images (vdc image rm) or grow the disk",
        code="no-space",
    )


def needs_space(size_bytes: int, free_bytes: int) -> RefusedError:
    """`no-space`, with figures."""
    return no_space(f"it needs {format_size(size_bytes)} and {format_size(max(0, free_bytes))} are free")
