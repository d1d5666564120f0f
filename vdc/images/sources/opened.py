"""A file that is imported, open: it is what it seems, and stays the same until its import is over."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from vdc.images.content import Content, FileContent
from vdc.images.progress import Progress
from vdc.model.errors import ConflictError, InvalidError, NotFoundError
from vdc.model.image import Blob

_CHUNK_BYTES = 1024**2


class OpenedFile:
    """`content` is read at places, `file` by whoever wants a stream; both are of the same open file."""

    def __init__(self, path: Path, owned: ExitStack, *, follows_links: bool = True) -> None:
        """Raises NotFoundError (`source-not-found`), InvalidError (`source-unsupported`, `source-unreadable`)."""
        self.path = path
        self.file: BinaryIO = owned.enter_context(os.fdopen(_open(path, follows_links), "rb"))
        self._status = os.fstat(self.file.fileno())
        if not stat.S_ISREG(self._status.st_mode):
            raise InvalidError(f"{path} is no plain file", code="source-unsupported")
        self.size_bytes = self._status.st_size
        if not self.size_bytes:
            raise InvalidError(f"{path} is empty", hint="fetch it again", code="image-unsafe")

    @property
    def content(self) -> Content:
        """Its bytes at places."""
        return FileContent(self.file.fileno(), self.size_bytes)

    def check_unchanged(self) -> None:
        """ConflictError (`image-changed`) where it was written to, or replaced, since it was opened."""
        try:
            found = (os.fstat(self.file.fileno()), self.path.stat())
        except OSError as error:
            raise self._changed() from error
        if any(_identity(status) != _identity(self._status) for status in found):
            raise self._changed()

    def hash(self, progress: Progress) -> Blob:
        """Read it all."""
        self.file.seek(0)
        blob = blob_of(self.file, f"reading {self.path.name}", progress)
        self.check_unchanged()
        return blob

    def _changed(self) -> ConflictError:
        return ConflictError(
            f"{self.path} was changed while it was read",
            hint="stop what writes to it, and import it again",
            code="image-changed",
        )


def blob_of(file: BinaryIO, what: str, progress: Progress) -> Blob:
    """Read an open file to its end; `what` is what the progress calls it."""
    digest, done, total = hashlib.sha256(), 0, os.fstat(file.fileno()).st_size
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    while size := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:size])
        done += size
        progress(what, done, total)
    return Blob(digest="sha256:" + digest.hexdigest(), size_bytes=done)


def _open(path: Path, follows_links: bool) -> int:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follows_links else os.O_NOFOLLOW)
    try:
        return os.open(path, flags)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file or folder {path}", code="source-not-found") from error
    except PermissionError as error:
        raise InvalidError(
            f"{path} may not be read by this user", hint="sudo, or chmod", code="source-unreadable"
        ) from error
    except OSError as error:
        raise InvalidError(f"{path} cannot be opened: {error.strerror}", code="source-unsupported") from error


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
