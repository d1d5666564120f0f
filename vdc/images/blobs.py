"""Content-addressed files of one host: `ROOT/blobs/sha256/HEX`.

A file under its final name is whole and has been verified: it is written beside it under a temporary name,
hashed on the way, flushed to the disk and renamed. A writer holds a lock on its temporary file, so that
`sweep` can tell what a crash left behind from what is being written now, by this process or another one.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from vdc.images.reference import check_digest
from vdc.model.errors import InvalidError, NotFoundError, RefusedError
from vdc.model.image import Blob
from vdc.model.units import format_size

T = TypeVar("T")

DIRECTORY_MODE = 0o755  # QEMU runs as another user and reads its images here
FILE_MODE = 0o644
_BATCH_BYTES = 1024**2
_TEMPORARY = ".incoming-"
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store holds and what is left on its file system."""

    blobs: int
    size_bytes: int
    free_bytes: int


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def relative_path(digest: str) -> str:
    """Where a blob is below its store's root; `InvalidError` for anything that is not a digest."""
    return f"blobs/sha256/{check_digest(digest).removeprefix('sha256:')}"


class BlobStore:
    """The blobs under one folder. `reserve_bytes` of the file system stay free for running guests."""

    def __init__(
        self, root: Path, *, reserve_bytes: int = 0, free_bytes: Callable[[Path], int] = _free_bytes
    ) -> None:
        self.folder = root / "blobs" / "sha256"
        self._reserve_bytes = reserve_bytes
        self._free_bytes = free_bytes

    def prepare(self) -> None:
        """Make the folders (mode 0755 whatever the umask); done before the first write as well."""
        for folder in (self.folder.parent.parent, self.folder.parent, self.folder):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(DIRECTORY_MODE)

    def path(self, digest: str) -> Path:
        """Where the blob is or would be; `InvalidError` for anything that is not a digest."""
        return self.folder / check_digest(digest).removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """Whether the blob is here, whole."""
        return self.path(digest).is_file()

    def open(self, digest: str) -> BinaryIO:
        """The blob for reading; `NotFoundError` (`blob-not-found`)."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise NotFoundError(f"this host does not hold {digest}", code="blob-not-found") from error

    def remove(self, digest: str) -> bool:
        """Remove the blob; says whether it was there. Whoever has it open keeps it."""
        try:
            self.path(digest).unlink()
        except FileNotFoundError:
            return False
        return True

    def digests(self) -> tuple[str, ...]:
        """Everything that is here, sorted."""
        if not self.folder.is_dir():
            return ()
        names = sorted(entry.name for entry in self.folder.iterdir() if _HEX.fullmatch(entry.name))
        return tuple(f"sha256:{name}" for name in names)

    def usage(self) -> Usage:
        """Number and size of the blobs; the free bytes already without the reserve."""
        self.prepare()
        sizes = [entry.stat().st_size for entry in self.folder.iterdir() if _HEX.fullmatch(entry.name)]
        return Usage(len(sizes), sum(sizes), max(0, self._free_bytes(self.folder) - self._reserve_bytes))

    def sweep(self) -> tuple[str, ...]:
        """Remove temporary files that nobody writes any more; returns their names."""
        if not self.folder.is_dir():
            return ()
        return tuple(
            entry.name for entry in sorted(self.folder.glob(_TEMPORARY + "*")) if _remove_orphan(entry)
        )

    async def write(self, digest: str, chunks: AsyncIterable[bytes], size_bytes: int | None = None) -> Blob:
        """Store a stream under its digest; a blob that is here already is not read again.

        Raises `InvalidError` (`digest-mismatch`) where the content is another, `RefusedError` (`no-space`)
        before the first byte where `size_bytes` does not fit, and later where the disk fills up meanwhile.
        Nothing is left behind then, nor when the stream fails or the task is cancelled.
        """
        path = self.path(digest)
        if path.is_file():
            return Blob(digest=digest, size_bytes=path.stat().st_size)
        self.prepare()
        self._check_space(size_bytes or 0)
        writer = await _in_thread(lambda: _Writer(self.folder), self.folder)
        try:
            async for chunk in chunks:
                if writer.accept(chunk):
                    await _in_thread(writer.flush, self.folder)
                    self._check_space(0)  # others write too, and not every sender says how much will come
                if size_bytes is not None and writer.size_bytes > size_bytes:
                    break
            await _in_thread(writer.finish, self.folder)
            _check_content(digest, size_bytes, writer)
            await _in_thread(lambda: writer.publish(path), self.folder)
        finally:
            await asyncio.shield(asyncio.to_thread(writer.close))
        return Blob(digest=digest, size_bytes=writer.size_bytes)

    def _check_space(self, size_bytes: int) -> None:
        free = self._free_bytes(self.folder) - self._reserve_bytes
        if size_bytes > free:
            raise _no_space(f"it needs {format_size(size_bytes)} and {format_size(max(0, free))} are free")


class _Writer:
    """One temporary file; its methods block and belong into a thread."""

    def __init__(self, folder: Path) -> None:
        descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._temporary: Path | None = Path(name)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._hash = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.size_bytes = 0

    def accept(self, chunk: bytes) -> bool:
        """Keep a chunk; says whether it is time to flush. Does not block."""
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        self.size_bytes += len(chunk)
        return self._waiting_bytes >= _BATCH_BYTES

    def flush(self) -> None:
        left = memoryview(b"".join(self._waiting))
        self._waiting, self._waiting_bytes = [], 0
        self._hash.update(left)
        while left:
            left = left[self._file.write(left) :]

    def finish(self) -> None:
        self.flush()
        os.fchmod(self._file.fileno(), FILE_MODE)
        os.fsync(self._file.fileno())

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()

    def publish(self, path: Path) -> None:
        assert self._temporary is not None
        self._temporary.replace(path)
        self._temporary = None
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        self._file.close()


async def _in_thread(work: Callable[[], T], folder: Path) -> T:
    """Run blocking file work; a full disk becomes `no-space`. A cancellation waits for the thread to end."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(f"the disk under {folder} is full") from error
        raise


def _check_content(digest: str, size_bytes: int | None, writer: _Writer) -> None:
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


def _remove_orphan(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # published or removed meanwhile
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _no_space(reason: str) -> RefusedError:
    return RefusedError(
        f"there is no space for the image: {reason}",
        hint="remove images (vdc image rm) or grow the disk",
        code="no-space",
    )
