"""The folder that one import works in: room is checked first, and nothing of it stays.

    BASE/vdc-scratch-XXXXXX/        ours alone, and locked while it is used
    BASE/vdc-scratch-XXXXXX/work/   what tools see and write (`vdc.images.tool`)

BASE is where the caller says, else TMPDIR or /var/tmp. A process that is killed leaves its folder behind, without
the lock: the next one finds it by that and removes it (`sweep`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from vdc.model.errors import InvalidError, RefusedError
from vdc.model.units import MIB, format_size

_PREFIX = "vdc-scratch-"
_WORK = "work"
_RESERVE_BYTES = 64 * MIB  # left for others, whatever fits
_ATTEMPTS = 10


class Scratch:
    """A folder for the time of a `with`. `folder` is what a tool is given as its scratch folder."""

    def __init__(self, needed_bytes: int = 0, *, below: Path | None = None) -> None:
        """Raises RefusedError (`no-space`, `scratch-unusable`) at `with`, not here."""
        self._base = below or Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - made by mkdtemp
        self._needed_bytes = needed_bytes
        self._root: Path | None = None
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            sweep(self._base)
            self.need(self._needed_bytes)
            self._root, self._lock = _locked_folder(self._base)
            self.folder.mkdir(mode=0o700)
        except OSError as error:
            self.close()
            raise RefusedError(
                f"no temporary folder can be made in {self._base}: {error.strerror or error}",
                hint="name another one with TMPDIR",
                code="scratch-unusable",
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        """Where tools work."""
        assert self._root is not None, "it is used inside of a `with`"
        return self._root / _WORK

    def own(self, name: str) -> Path:
        """Where a file of that name is ours, beside what tools see."""
        assert self._root is not None and Path(name).name == name
        return self._root / name

    def need(self, size_bytes: int) -> None:
        """RefusedError (`no-space`) where so many bytes more do not fit."""
        free_bytes = max(0, shutil.disk_usage(self._base).free - _RESERVE_BYTES)
        if size_bytes > free_bytes:
            raise _no_space(
                f"the import needs {format_size(size_bytes)} in {self._base}, where {format_size(free_bytes)} are free"
            )

    @contextlib.contextmanager
    def filling(self) -> Iterator[None]:
        """What is written within into the folder: a full disk is RefusedError (`no-space`)."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _no_space(f"the disk under {self._base} is full") from error

    def take(self, name: str) -> Path:
        """Take a result from the tool's reach. A tool that was taken over may have left anything in its place.

        Raises InvalidError (`image-unsafe`) where it is not a plain file of its own.
        """
        path, taken = self.folder / name, self.own(name)
        status = os.lstat(path) if os.path.lexists(path) else None
        if status is None or not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise InvalidError(f"the program left no plain file {name}", code="image-unsafe")
        path.rename(taken)
        os.chown(taken, os.geteuid(), os.getegid(), follow_symlinks=False)
        return taken

    def close(self) -> None:
        """Remove the folder; a Ctrl-C meanwhile waits."""
        with _without_interrupts():
            root, self._root = self._root, None
            if root is not None:
                shutil.rmtree(root, ignore_errors=True)
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1


def sweep(base: Path) -> tuple[Path, ...]:
    """Remove our own folders below `base` that nobody uses any more; returns them."""
    return tuple(path for path in sorted(base.glob(_PREFIX + "*")) if _remove_orphan(path))


def open_result(path: Path) -> BinaryIO:
    """Open a file that a tool wrote as what it is called; InvalidError (`image-unsafe`) for a link or a pipe."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.fdopen(descriptor, "rb")
        os.close(descriptor)
    raise InvalidError(f"the program left no plain file {path.name}", code="image-unsafe")


def _no_space(message: str) -> RefusedError:
    return RefusedError(message, hint="free room there, or name another folder with TMPDIR", code="no-space")


def _locked_folder(base: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that holds its lock; a sweep may remove it between the two."""
    for _ in range(_ATTEMPTS):
        root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.lexists(root):
                return root, lock
            os.close(lock)
    raise FileNotFoundError(0, "it is removed again and again")


def _remove_orphan(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # removed meanwhile, or not what it is called
    try:
        if os.fstat(lock).st_uid != os.geteuid():
            return False
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
