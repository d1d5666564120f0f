"""What a disk file refers to: the file below it, and what else cannot be taken as it is. QEMU is never asked to guess.

An overlay names the file below it in its header, and whoever made the overlay chose that name: it may be any file
that the reader may read. So a chain is followed by us, header by header, only to plain files in stated formats that
`may_read` accepts; a program is then given exactly these. Reads headers, changes nothing.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vdc.images.inspect import HEADER_BYTES, inspect_disk
from vdc.model.errors import InvalidError, NotFoundError, RefusedError

MAX_LINKS = 16
_PLAIN = ("qcow2", "raw")
_COPY = "copy it: qemu-img convert -O qcow2 OLD NEW"
_QCOW2_MAGIC = b"QFI\xfb"
_MAX_NAME = 1023  # of a backing file (docs/interop/qcow2.txt)
_EXTENSION_END, _EXTENSION_FORMAT = 0, 0xE2792ACA
_FLOCK = "hhqqi4x"  # struct flock
_WRITE_LOCK = 100 + 1  # RAW_LOCK_PERM_BASE and the place of BLK_PERM_WRITE


@dataclass(frozen=True, slots=True)
class Link:
    """One file of a chain and its format. `has_snapshots`: it holds older states, which a copy leaves out."""

    path: Path
    format: str
    size_bytes: int
    identity: tuple[int, int, int, int]  # device, inode, size, time of change
    allocated_bytes: int = 0
    has_snapshots: bool = False
    is_device: bool = False


@dataclass(frozen=True, slots=True)
class References:
    """What the header of a qcow2 file says."""

    backing: str | None = None
    backing_format: str | None = None
    snapshots: int = 0


def references_of(header: bytes) -> References:
    """Of a file's beginning; nothing for what is no qcow2. InvalidError (`image-unsafe`) where it makes no sense."""
    if not header.startswith(_QCOW2_MAGIC) or len(header) < 72:
        return References()
    version, place, length = struct.unpack_from(">IQI", header, 4)
    snapshots = struct.unpack_from(">I", header, 60)[0]
    if not place:
        return References(snapshots=snapshots)
    name = header[place : place + length]
    if not 0 < length <= _MAX_NAME or len(name) < length:
        raise InvalidError("the name of the file below it lies outside of its header", code="image-unsafe")
    try:
        backing = name.decode()
    except UnicodeDecodeError as error:
        raise InvalidError("the name of the file below it is no text", code="image-unsafe") from error
    begin = struct.unpack_from(">I", header, 100)[0] if version == 3 and len(header) >= 104 else 72
    return References(backing, _backing_format(header, begin, place), snapshots)


def _backing_format(header: bytes, place: int, end: int) -> str | None:
    while place >= 72 and place + 8 <= min(end, len(header)):
        kind, length = struct.unpack_from(">II", header, place)
        if kind == _EXTENSION_END:
            break
        if kind == _EXTENSION_FORMAT:
            return header[place + 8 : place + 8 + min(length, 16)].decode("ascii", "replace")
        place += 8 + (length + 7) // 8 * 8
    return None


def follow(
    path: Path,
    image_format: str,
    *,
    stated: Sequence[tuple[Path, str]],
    may_read: Callable[[Path, Path], bool],
) -> tuple[Link, ...]:
    """The chain that begins with `path`, the top first. `stated`: what the description says lies below it.

    `may_read(upper, lower)` accepts a lower file that `stated` does not name; neither is a link. Raises NotFoundError
    (`disk-not-found`), InvalidError (`image-unsafe`), RefusedError (`backing-refused`, `disk-unreadable`).
    """
    links: list[Link] = []
    formats = {lower.resolve(): form for lower, form in stated}
    while True:
        link, references = _look(path, image_format)
        if any(link.identity[:2] == other.identity[:2] for other in links) or len(links) == MAX_LINKS:
            raise RefusedError(
                f"more than {MAX_LINKS} files lie below {links[0].path}, or one below itself",
                code="backing-refused",
            )
        links.append(link)
        if references.backing is None:
            return tuple(links)
        path, image_format = _lower(link.path, references, formats, may_read)


def _lower(
    upper: Path, references: References, stated: dict[Path, str], may_read: Callable[[Path, Path], bool]
) -> tuple[Path, str]:
    named = references.backing or ""
    first = named.split("/", 1)[0]
    if ":" in first or "\0" in named:  # a protocol, as QEMU reads it
        raise _refused(upper, f"{named[:120]!r}, which is no plain file", _COPY)
    lower = upper.parent / named  # as QEMU goes there, through links too
    real = lower.resolve()
    image_format = stated.get(real) or references.backing_format
    if real not in stated and not may_read(upper.resolve(), real):
        raise _refused(
            upper, f"{lower}, which lies elsewhere", f"if that is right, say so: --backing {lower}"
        )
    if image_format is None:
        raise _refused(upper, f"{lower} in a format that nobody has written down",
                       f"write it down: qemu-img rebase -u -F FORMAT -b {named[:120]} {upper}")  # fmt: skip
    if image_format not in _PLAIN:
        raise _refused(upper, f"{lower}, whose format {image_format[:20]!r} is followed no further", _COPY)
    return lower, image_format


def _look(path: Path, image_format: str) -> tuple[Link, References]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no file {path}", hint="run vdc on the machine that has it", code="disk-not-found"
        ) from error
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    try:
        status = os.fstat(descriptor)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise _unreadable(path, "it is neither a file nor a block device")
        size_bytes = os.lseek(descriptor, 0, os.SEEK_END)
        header = os.pread(descriptor, HEADER_BYTES, 0)
        if _is_being_written(descriptor):
            raise RefusedError(
                f"{path} is open for writing, by a running VM or a program",
                hint="shut the VM down first",
                code="disk-in-use",
            )
    finally:
        os.close(descriptor)
    references = references_of(header) if image_format == "qcow2" else References()
    if stat.S_ISBLK(status.st_mode) and image_format not in _PLAIN:
        raise _unreadable(path, f"on a block device a disk is qcow2 or raw, not {image_format[:20]!r}")
    if image_format in _PLAIN:
        _check(path, header, size_bytes, image_format)
    link = Link(
        path=path,
        format=image_format,
        size_bytes=size_bytes,
        identity=(status.st_dev, status.st_ino, size_bytes, status.st_mtime_ns),
        allocated_bytes=status.st_blocks * 512 if stat.S_ISREG(status.st_mode) else size_bytes,
        has_snapshots=references.snapshots > 0,
        is_device=stat.S_ISBLK(status.st_mode),
    )
    return link, references


def _check(path: Path, header: bytes, size_bytes: int, image_format: str) -> None:
    """As any disk that is imported, but for what a copy of the chain leaves out."""
    alone = bytearray(header)
    if header.startswith(_QCOW2_MAGIC) and len(header) >= 72:
        struct.pack_into(">QI", alone, 8, 0, 0)
        struct.pack_into(">I", alone, 60, 0)
    try:
        inspect_disk(bytes(alone), size_bytes, image_format)
    except InvalidError as error:
        raise InvalidError(f"{path}: {error}", hint=error.problem.hint, code=error.code) from error


def _is_being_written(descriptor: int) -> bool:
    """Whether a QEMU has it open to write: it locks a byte for each permission (block/file-posix.c)."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _WRITE_LOCK, 1, 0)
    with suppress(OSError):  # a file system without locks
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
        return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)
    return False


def _refused(upper: Path, what: str, hint: str) -> RefusedError:
    return RefusedError(f"{upper} lies over {what}", hint=hint, code="backing-refused")


def _unreadable(path: Path, reason: str) -> RefusedError:
    return RefusedError(f"{path} cannot be read: {reason}", code="disk-unreadable")


def require_unchanged(links: Sequence[Link]) -> None:
    """Refuse what somebody has written to since it was followed: RefusedError (`disk-changed`)."""
    for link in links:
        now, _ = _look(link.path, link.format)
        if now.identity != link.identity:
            raise RefusedError(
                f"{link.path} was changed while it was read",
                hint="keep the VM off and try again",
                code="disk-changed",
            )
