"""Unpacking a tar archive that a guest has made, which may be anything but an honest one.

Nothing is written outside of the target: every folder on the way is opened by its name in the one above, without
following links, and no link is made that leads out. Sizes, the number of members and the length of headers are bounded.
Owners, special permissions and devices stay behind: the files are whoever's who copies them.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from vdc.model.errors import RefusedError, UnavailableError
from vdc.model.units import format_size

BLOCK: Final = 512
MOST_MEMBERS: Final = 1_000_000
MOST_HEADER: Final = 1 << 20  # of a name, or of a member's further attributes
MOST_DEPTH: Final = 200
_CHUNK: Final = 1 << 20
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Unpacked:
    """What was done. `left_out`: links that lead elsewhere, devices, and the like."""

    files: int = 0
    size_bytes: int = 0
    left_out: list[str] = field(default_factory=list)


class ArchiveError(RefusedError):
    """The archive is broken, or is not what was asked for."""

    default_code = "archive-invalid"


def unpack(archive: BinaryIO, parent: Path, name: str, *, expected: str, most_bytes: int) -> Unpacked:
    """Make `parent/name` of the archive's one file or folder, which it calls `expected`. Blocks.

    Raises ArchiveError, UnavailableError (`files-cut`) where it ends too soon, OSError of the local file system.
    """
    root = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        work = _Unpacking(root, name, expected, most_bytes)
        for member in members(archive):
            work.add(member, archive)
        work.finish()
        return work.done
    finally:
        os.close(root)


def members(archive: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The headers one after the other; whoever takes one reads its content, padding included, before the next.

    Raises ArchiveError.
    """
    further: dict[str, str] = {}
    for _ in range(MOST_MEMBERS):
        member = _header(archive)
        if member is None:
            return
        if member.type in (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
            content = _small(archive, member.size)
            if member.type == _PAX:
                further |= _pax(content)
            elif member.type != _PAX_GLOBAL:
                key = "path" if member.type == _LONG_NAME else "linkpath"
                further[key] = content.rstrip(b"\0").decode(errors="surrogateescape")
            continue
        _apply(member, further)
        further = {}
        yield member
    raise ArchiveError(f"the archive has more than {MOST_MEMBERS} members")


def _header(archive: BinaryIO) -> tarfile.TarInfo | None:
    """None at the end."""
    block = _exactly(archive, BLOCK)
    if block == bytes(BLOCK):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ArchiveError(f"the archive is broken: {error}") from error


def _apply(member: tarfile.TarInfo, further: dict[str, str]) -> None:
    member.name = further.get("path", member.name)
    member.linkname = further.get("linkpath", member.linkname)
    try:
        member.size = int(further.get("size", member.size))
        member.mtime = float(further.get("mtime", member.mtime))
    except ValueError as error:
        raise ArchiveError("the archive is broken: a number that is none") from error
    is_sparse = member.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in further)
    if member.size < 0 or is_sparse:
        raise ArchiveError("the archive has a member of a kind that is not understood")


def _pax(content: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    while content:
        digits, space, _ = content.partition(b" ")
        length = int(digits) if space and digits.isdigit() and len(digits) < 8 else 0
        record, content = content[:length], content[length:]
        key, equals, value = record[len(digits) + 1 :].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise ArchiveError("the archive is broken: an attribute that is none")
        found[key.decode(errors="replace")] = value[:-1].decode(errors="surrogateescape")
    return found


def _small(archive: BinaryIO, size: int) -> bytes:
    if not 0 <= size <= MOST_HEADER:
        raise ArchiveError(f"the archive has a header of {size} bytes")
    return _exactly(archive, size + -size % BLOCK)[:size]


def _exactly(archive: BinaryIO, size: int) -> bytes:
    data = archive.read(size)
    if len(data) != size:
        raise UnavailableError("the archive ends too soon", code="files-cut")
    return data


class _Unpacking:
    """One archive's way into one place."""

    def __init__(self, root: int, name: str, expected: str, most_bytes: int) -> None:
        self.done = Unpacked()
        self._root = root
        self._name = name
        self._expected = expected
        self._most_bytes = most_bytes
        self._folders: list[tuple[tuple[str, ...], tarfile.TarInfo]] = []
        self._has_begun = False

    def add(self, member: tarfile.TarInfo, archive: BinaryIO) -> None:
        """One member, with its content."""
        place = self._place(member.name)
        self._has_begun = True
        if member.isreg():
            self._write(place, member, archive)
            return
        if member.size:
            raise ArchiveError(f"{member.name[:200]!r} in the archive has content and is no file")
        if member.isdir():
            os.close(self._open_folder(place, make=True))
            self._folders.append((place, member))
        elif member.issym() and self._stays_inside(place, member.linkname):
            folder, name = self._open_parent(place)
            try:
                _make_way(name, folder)
                os.symlink(member.linkname, name, dir_fd=folder)
            finally:
                os.close(folder)
        elif member.islnk():
            self._link(place, self._place(member.linkname))
        else:
            self.done.left_out.append(member.name)

    def finish(self) -> None:
        """Give folders their modes and times when nothing is put into them any more."""
        if not self._has_begun:
            raise ArchiveError("the archive is empty")
        for place, member in reversed(self._folders):
            folder = self._open_folder(place)
            try:
                os.fchmod(folder, member.mode & 0o777 | 0o700)
                _set_time(folder, member.mtime)
            finally:
                os.close(folder)

    def _place(self, text: str) -> tuple[str, ...]:
        """Where a name of the archive is, as names below the root."""
        path = PurePosixPath(text)
        parts = tuple(part for part in path.parts if part != ".")
        if path.is_absolute() or ".." in parts or "\0" in text or len(parts) > MOST_DEPTH:
            raise ArchiveError(f"the archive has a name that leads elsewhere: {text[:200]!r}")
        if self._expected == ".":
            return (self._name, *parts)
        if not parts or parts[0] != self._expected:
            raise ArchiveError(f"the archive has something that was not asked for: {text[:200]!r}")
        return (self._name, *parts[1:])

    def _stays_inside(self, place: tuple[str, ...], target: str) -> bool:
        """Whether a link at `place` leads to something that is copied too: up first, then down, never up again."""
        path = PurePosixPath(target)
        ups = next((n for n, part in enumerate(path.parts) if part != ".."), len(path.parts))
        is_plain = target and not path.is_absolute() and "\0" not in target and ".." not in path.parts[ups:]
        return bool(is_plain) and ups <= len(place) - 2

    def _open_folder(self, place: tuple[str, ...], *, make: bool = False) -> int:
        folder = os.dup(self._root)
        for name in place:
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=folder)
                inner = os.open(name, _FOLDER_FLAGS, dir_fd=folder)
            finally:
                os.close(folder)
            folder = inner
        return folder

    def _open_parent(self, place: tuple[str, ...]) -> tuple[int, str]:
        return self._open_folder(place[:-1], make=True), place[-1]

    def _write(self, place: tuple[str, ...], member: tarfile.TarInfo, archive: BinaryIO) -> None:
        if self.done.size_bytes + member.size > self._most_bytes:
            raise ArchiveError(
                f"it is more than {format_size(self._most_bytes)}", hint="--max-size", code="copy-too-large"
            )
        folder, name = self._open_parent(place)
        try:
            _make_way(name, folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
                rest = member.size
                while rest:
                    chunk = _exactly(archive, min(rest, _CHUNK))
                    file.write(chunk)
                    rest -= len(chunk)
                    self.done.size_bytes += len(chunk)
                file.flush()
                os.fchmod(file.fileno(), member.mode & 0o777)
                _set_time(file.fileno(), member.mtime)
        finally:
            os.close(folder)
        _exactly(archive, -member.size % BLOCK)
        self.done.files += 1

    def _link(self, place: tuple[str, ...], target: tuple[str, ...]) -> None:
        folder, name = self._open_parent(place)
        try:
            source = self._open_folder(target[:-1])
            try:
                _make_way(name, folder)
                os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
            finally:
                os.close(source)
        finally:
            os.close(folder)
        self.done.files += 1


def _make_way(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _set_time(handle: int, at_s: float) -> None:
    if 0 <= at_s < 2**33:
        os.utime(handle, (at_s, at_s))
