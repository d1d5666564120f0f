"""Files and sockets in a folder that a guest's user owns, who may put anything in their place.

Root opens nothing there by its plain path. A name is opened as what it is, without following a symbolic link and
without waiting for the other end of a pipe, and used only where it is what was asked for. The folder itself lies
in one that is root's, so the names above it can be believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def open_foreign(path: Path, *, is_writable: bool = False) -> BinaryIO:
    """A regular file, for reading or for both. Raises OSError: ELOOP for a link, EPERM for anything else.

    Unbuffered reads would be cut short; it is buffered.
    """
    flags = os.O_RDWR if is_writable else os.O_RDONLY
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise PermissionError(errno.EPERM, "not a regular file", str(path))
        return os.fdopen(handle, "r+b" if is_writable else "rb")
    except BaseException:
        os.close(handle)
        raise


def give_foreign(path: Path, data: bytes) -> None:
    """Make a file that the folder's user alone may read, in place of whatever has its name. Raises OSError."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    with os.fdopen(handle, "wb") as file:
        owner = os.lstat(path.parent).st_uid
        os.fchown(handle, owner, owner)
        file.write(data)


def size_of_foreign(path: Path) -> int | None:
    """Of a regular file, in bytes; None where there is nothing. Raises PermissionError for anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise PermissionError(errno.EPERM, "not a regular file", str(path))
    return found.st_size


def is_foreign_socket(path: Path) -> bool:
    """Whether there is a socket, and not a link to one."""
    with contextlib.suppress(OSError):
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    return False


async def connect_foreign(path: Path) -> socket.socket:
    """Connect to a unix socket. Raises OSError. The path may be longer than a socket address."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with _found_socket(path) as address:
            await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def stream_foreign(
    path: Path, *, limit: int = 65_536
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The same, to read and write; nothing stays open where whoever asks loses patience. Raises OSError."""
    sock = await connect_foreign(path)
    try:
        return await asyncio.open_unix_connection(sock=sock, limit=limit)
    except BaseException:
        sock.close()
        raise


@contextlib.contextmanager
def _found_socket(path: Path) -> Iterator[str]:
    """What leads to exactly this socket, whatever takes its name meanwhile."""
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(handle).st_mode):
            raise PermissionError(errno.EPERM, "not a socket", str(path))
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
