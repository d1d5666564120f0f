"""Where a repository is kept: whole objects under keys. An object is there with all of its content, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from vdc.model.errors import InvalidError, NotFoundError, RefusedError, UnavailableError, VdcError
from vdc.model.units import MIB

S3_SCHEME: Final = "s3://"
MOST_BYTES: Final = 512 * MIB  # of one object: the description of a backup of some 25 TiB
_TEMPORARY = ".new-"
_OF_THE_DISK: Final = "lost+found"
_KEY = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Stored:
    """One object. `at_s`: when it was written, by the storage's own clock."""

    key: str
    size_bytes: int
    at_s: float


class Storage(Protocol):
    """All methods block, may be called from several threads, and raise UnavailableError (`repository-unreachable`).

    `name` is how the user writes it.
    """

    name: str

    def read(self, key: str, most_bytes: int = MOST_BYTES) -> bytes:
        """Raises NotFoundError (`object-not-found`), InvalidError (`object-invalid`) for one that is longer."""
        ...

    def write(self, key: str, content: bytes) -> None:
        """In place of what is there. RefusedError: `repository-full`, `repository-denied`."""
        ...

    def has(self, key: str) -> bool:
        """Whether there is such an object."""
        ...

    def list(self, prefix: str) -> Iterator[Stored]:
        """All objects whose keys begin so."""
        ...

    def delete(self, key: str) -> None:
        """Harmless where it is gone. RefusedError (`repository-denied`)."""
        ...


class Folder:
    """A folder of this machine, or one that is mounted."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._root = path

    def read(self, key: str, most_bytes: int = MOST_BYTES) -> bytes:
        """See `Storage`. Nobody waits for a pipe, and no link leads out of it."""
        with self._refusing():
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            try:
                descriptor = os.open(self._path(key), flags)
            except FileNotFoundError as error:
                raise no_object(key) from error
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
                    raise bad_object(key, "no plain file") from error
                raise
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise bad_object(key, "no plain file")
                return bounded(key, file.read(most_bytes + 1), most_bytes)

    def write(self, key: str, content: bytes) -> None:
        """See `Storage`. Written beside it, flushed to the disk, renamed."""
        path = self._path(key)
        temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
        with self._refusing():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            _sync(path.parent)

    def has(self, key: str) -> bool:
        """See `Storage`."""
        with self._refusing():
            return self._path(key).is_file()

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `Storage`; what was not written to its end is none."""
        with self._refusing():
            for path in self._below(prefix, _failed):
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    key = path.relative_to(self._root).as_posix()
                    if key.startswith(prefix) and not path.name.startswith(_TEMPORARY):
                        yield Stored(key, found.st_size, found.st_mtime)

    def delete(self, key: str) -> None:
        """See `Storage`."""
        with self._refusing():
            self._path(key).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what was not written to its end; nobody may write meanwhile. Returns how many."""
        count = 0
        with self._refusing():
            for path in self._below("", lambda error: None):  # such as _OF_THE_DISK
                if path.name.startswith(_TEMPORARY):
                    path.unlink(missing_ok=True)
                    count += 1
        return count

    def check_new(self) -> None:
        """Whether a repository may begin here. RefusedError (`not-empty`), NotFoundError (`no-folder`)."""
        with self._refusing():
            if not self._root.parent.is_dir():
                raise NotFoundError(f"there is no folder {self._root.parent}", code="no-folder")
            if self._root.exists() and any(one.name != _OF_THE_DISK for one in self._root.iterdir()):
                raise RefusedError(
                    f"{self.name} holds other files and no backups", code="not-empty",
                    hint="name a folder of its own",
                )  # fmt: skip

    def _below(self, prefix: str, failed: Callable[[OSError], None]) -> Iterator[Path]:
        """All files, in any order, a folder at a time."""
        start = self._root / prefix.rpartition("/")[0]
        for folder, _, files in os.walk(start, onerror=failed):
            paths = (Path(folder, name) for name in files)
            yield from (path for path in paths if path.is_file() and not path.is_symlink())

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except VdcError:
            raise
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno in _FULL:
                raise RefusedError(
                    f"the disk under {self.name} is full", code="repository-full",
                    hint="vdc backup prune, or a larger disk",
                ) from error  # fmt: skip
            if error.errno in _READ_ONLY:
                raise RefusedError(f"{self.name}: {why}", code="repository-denied") from error
            raise UnavailableError(f"{self.name}: {why}", code="repository-unreachable") from error


def open_storage(place: str) -> Storage:
    """Of what the user writes: a folder or `s3://BUCKET/PREFIX`. InvalidError (`repository-invalid`), as S3."""
    if place.startswith(S3_SCHEME):
        from vdc.backup.s3 import open_bucket

        return open_bucket(place)
    if "://" in place or not place:
        raise InvalidError(
            f"{place[:80]!r} is no place for backups", code="repository-invalid",
            hint="a folder, or s3://BUCKET/PREFIX",
        )  # fmt: skip
    return Folder(Path(place).absolute())


def checked_key(key: str) -> str:
    """A key that stays below the repository, whatever a damaged manifest says. InvalidError (`key-invalid`)."""
    if not _KEY.fullmatch(key):
        raise InvalidError(f"{key[:80]!r} is no name in a repository", code="key-invalid")
    return key


def no_object(key: str) -> NotFoundError:
    """What `read` raises."""
    return NotFoundError(f"the repository has no {key}", code="object-not-found")


def bad_object(key: str, what: str) -> InvalidError:
    """What `read` raises for what nobody wrote who wrote a repository."""
    return InvalidError(f"{key} in the repository is {what}", code="object-invalid")


def bounded(key: str, content: bytes, most_bytes: int) -> bytes:
    """What was read of an object, of which one byte more than it may have."""
    if len(content) > most_bytes:
        raise bad_object(key, f"longer than {most_bytes} bytes")
    return content


def _failed(error: OSError) -> None:
    """What is not listed is taken for absent, so nothing is left out."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
