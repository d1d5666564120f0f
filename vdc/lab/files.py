"""The lab's own files: its record, its lock, and the removal of its state folder."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from vdc.lab.models import LabRecord
from vdc.model.errors import ConflictError, RefusedError

_POLL_S = 0.05
_MNT_DETACH = 2


def write_text(path: Path, text: str) -> None:
    """Replace a file in one rename."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def read_record(path: Path) -> LabRecord | None:
    """What is known of a lab; None where there is no such file, or one that makes no sense any more."""
    try:
        return LabRecord.from_json(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


@contextlib.asynccontextmanager
async def locked(folder: Path, deadline_s: float, progress: Callable[[str], None]) -> AsyncIterator[None]:
    """Hold the lab's state folder, made where it is missing; `ConflictError` (`lab-busy`) at the deadline."""
    descriptor = _try_lock(folder)
    if descriptor is None:
        progress("another command is working on this lab; waiting for it")
    end = time.monotonic() + deadline_s
    while descriptor is None:
        if time.monotonic() > end:
            raise ConflictError(
                f"another command has been working on the lab for {deadline_s:.0f} s",
                hint="try again when it is done", code="lab-busy",
            )  # fmt: skip
        await asyncio.sleep(_POLL_S)
        descriptor = _try_lock(folder)
    try:
        yield
    finally:
        remove_folder(folder)  # where nothing is in it
        os.close(descriptor)


def mounts_below(folder: Path) -> tuple[Path, ...]:
    """The mount points in a folder, deepest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = Path(line.split()[4].replace("\\040", " "))
        if target.is_relative_to(folder):
            found.append(target)
    return tuple(sorted(found, key=lambda path: len(path.parts), reverse=True))


def empty_folder(folder: Path) -> None:
    """Remove what is in a lab's state folder, after unmounting whatever is mounted there.

    Raises `RefusedError` (`still-mounted`) rather than delete through a mount point.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for target in mounts_below(folder):
        libc.umount2(os.fsencode(target), _MNT_DETACH)
    if left := mounts_below(folder):
        raise RefusedError(
            f"{left[0]} is still mounted", hint="unmount it and try again", code="still-mounted"
        )
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a state folder if it is empty, and the folder of all labs with the last one."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Wait for a folder's lock and hold it; the folder has to stay meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _try_lock(folder: Path) -> int | None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == folder.stat().st_ino:  # not one that `down` has just removed
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
