"""Layers of container images are tar archives that anybody may have written. This reads them, and trusts nothing.

POSIX ustar and pax, GNU and star, as Go's archive/tar reads them, which is what container engines use: kinds other
than plain files have no content, global pax headers do not count, pax values go before those of the header.
Only headers are read; a file's content is told by its place in the archive. Each header, and what is remembered of
it, is bounded.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from vdc.images.oci.sparse import gnu_map, pax_map
from vdc.images.oci.window import BLOCK_BYTES, LayerError, Window, to_number
from vdc.model.units import MIB

MAX_SPECIAL_BYTES = MIB  # of a pax header or a long name; Go's limit too
_MAX_SPECIALS_BYTES = 4 * MIB  # of all headers before one entry
MAX_PATH_BYTES = 4095  # Linux cannot open longer ones
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_ZEROS = bytes(BLOCK_BYTES)
_NANOSECONDS = 10**9
_XATTR = b"SCHILY.xattr."
_MAX_TIME = 1 << 40  # seconds; what a file system cannot hold is cut there


class EntryKind(Enum):
    """What an entry makes; the value is its letter in the archive."""

    FILE = b"0"
    HARD_LINK = b"1"
    SYMLINK = b"2"
    CHARACTER = b"3"
    BLOCK = b"4"
    FOLDER = b"5"
    FIFO = b"6"


@dataclass(slots=True)
class TarEntry:
    """One entry. `pieces`: offset in the file, number of bytes, place in the archive."""

    name: bytes
    kind: EntryKind
    permissions: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    link: bytes
    device: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    pieces: tuple[tuple[int, int, int], ...]


_KINDS = {kind.value: kind for kind in EntryKind} | {
    b"\0": EntryKind.FILE,
    b"7": EntryKind.FILE,
    b"S": EntryKind.FILE,
}
_DEVICES = (EntryKind.CHARACTER, EntryKind.BLOCK)
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _VOLUME = b"L", b"K", b"x", b"g", b"V"


def read_entries(descriptor: int) -> Iterator[TarEntry]:
    """The entries of an uncompressed archive, in its order. Raises LayerError (`image-layer-invalid`)."""
    window = Window(descriptor, os.fstat(descriptor).st_size)
    place, special = 0, _Special()
    while (header := _header_at(window, place)) is not None:
        letter, size_bytes = header[7], to_number(header[4], "size")
        content = place + BLOCK_BYTES
        if letter in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _VOLUME):
            special.take(letter, _special_content(window, content, letter, size_bytes))
            place = _next(content, size_bytes)
            continue
        entry, place = _entry(window, header, content, special)
        special = _Special()
        yield entry


class _Special:
    """What headers before an entry say of it."""

    def __init__(self) -> None:
        self.name: bytes | None = None
        self.link: bytes | None = None
        self.pax: dict[bytes, bytes] = {}
        self.sparse: list[tuple[bytes, bytes]] = []  # offsets and lengths in their order (GNU 0.0)
        self._held_bytes = 0

    def take(self, letter: bytes, content: bytes) -> None:
        self._held_bytes += BLOCK_BYTES + len(content)
        if self._held_bytes > _MAX_SPECIALS_BYTES:
            raise LayerError("too many headers describe one entry")
        if letter == _LONG_NAME:
            self.name = content.split(b"\0", 1)[0]
        elif letter == _LONG_LINK:
            self.link = content.split(b"\0", 1)[0]
        elif letter == _PAX:
            for key, value in _pax_records(content):
                if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                    self.sparse.append((key, value))
                elif value:
                    self.pax[key] = value
                else:
                    self.pax.pop(key, None)


def _header_at(window: Window, place: int) -> tuple[bytes, ...] | None:
    """The fields of the header there; None at the archive's end, which need not be marked."""
    if place >= window.size:
        return None
    block = window.read(place, BLOCK_BYTES)
    if block == _ZEROS:
        if place + BLOCK_BYTES < window.size and window.read(place + BLOCK_BYTES, BLOCK_BYTES) != _ZEROS:
            raise LayerError("a block of zeros is followed by something else")
        return None
    fields: tuple[bytes, ...] = _HEADER.unpack(block)
    wanted = to_number(fields[6], "checksum")
    found = sum(block) - sum(fields[6]) + 8 * 32
    if wanted != found and wanted != _signed_sum(block, fields[6]):
        raise LayerError(f"the header at byte {place} has a wrong checksum")
    return fields


def _signed_sum(block: bytes, own: bytes) -> int:
    """As some old programs add up."""
    return sum(_as_signed(byte) for byte in block) - sum(_as_signed(byte) for byte in own) + 8 * 32


def _as_signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def _special_content(window: Window, place: int, letter: bytes, size_bytes: int) -> bytes:
    if not 0 <= size_bytes <= MAX_SPECIAL_BYTES:
        raise LayerError(f"a header of type {letter.decode()!r} says that it has {size_bytes} bytes")
    return window.read(place, size_bytes)


def _entry(
    window: Window, header: tuple[bytes, ...], content: int, special: _Special
) -> tuple[TarEntry, int]:
    """One entry, and where the next header is."""
    pax = special.pax
    name = special.name or _name_of(header)
    name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or name
    link = pax.get(b"linkpath") or special.link or header[8].split(b"\0", 1)[0]
    letter = header[7]
    kind = _KINDS.get(letter)
    if kind is None:
        raise LayerError(f"an entry has the unknown type {letter!r}")
    if kind is EntryKind.FILE and name.endswith(b"/"):
        kind = EntryKind.FOLDER  # as the first tar wrote them
    stored = _decimal(pax[b"size"], "size") if b"size" in pax else to_number(header[4], "size")
    if kind is not EntryKind.FILE:
        stored = 0
    if stored < 0 or content + stored > window.size:
        raise LayerError(f"it ends within {_shown(name)}: it is cut off")
    size, skipped = stored, 0
    pieces: tuple[tuple[int, int, int], ...] = ((0, stored, content),) if stored else ()
    if letter == b"S":
        size, pieces, skipped = gnu_map(window, content, stored)
    elif kind is EntryKind.FILE and (b"GNU.sparse.major" in pax or b"GNU.sparse.size" in pax):
        size, pieces = pax_map(window, content, stored, pax, special.sparse)
    entry = TarEntry(
        name=_checked(name, "name"),
        kind=kind,
        permissions=to_number(header[1], "mode") & 0o7777,
        uid=_owner(pax.get(b"uid"), header[2]),
        gid=_owner(pax.get(b"gid"), header[3]),
        mtime_ns=_time(pax[b"mtime"])
        if b"mtime" in pax
        else _cut(to_number(header[5], "mtime")) * _NANOSECONDS,
        size=size,
        link=_checked(link, "link"),
        device=_device(header) if kind in _DEVICES else (0, 0),
        xattrs=tuple((key[len(_XATTR) :], value) for key, value in pax.items() if key.startswith(_XATTR)),
        pieces=pieces,
    )
    return entry, _next(content + skipped, stored)


def _next(content: int, size_bytes: int) -> int:
    return content + -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _name_of(header: tuple[bytes, ...]) -> bytes:
    name, magic, prefix = header[0].split(b"\0", 1)[0], header[9], header[14]
    if magic[:6] != b"ustar\0":
        return name  # GNU's and older ones have other things there
    if header[15][-4:] == b"tar\0":
        prefix = prefix[:131]  # star's is shorter
    prefix = prefix.split(b"\0", 1)[0]
    return prefix + b"/" + name if prefix else name


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place < len(content):
        space = content.find(b" ", place, place + 12)
        length = content[place:space] if space > 0 else b""
        end = place + int(length) if length.isdigit() else 0
        equals = content.find(b"=", space, max(end, 0))
        if not (space < equals < end <= len(content) and content[end - 1 : end] == b"\n"):
            raise LayerError("a pax header is damaged")
        yield content[space + 1 : equals], content[equals + 1 : end - 1]
        place = end


def _owner(pax: bytes | None, header: bytes) -> int:
    number = _decimal(pax, "owner") if pax is not None else to_number(header, "owner")
    if not 0 <= number < (1 << 32) - 1:
        raise LayerError(f"an owner has the number {number}")
    return number


def _device(header: tuple[bytes, ...]) -> tuple[int, int]:
    """Major and minor number, as wide as Linux has them."""
    major, minor = to_number(header[12], "device"), to_number(header[13], "device")
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise LayerError(f"a device has the numbers {major} and {minor}")
    return major, minor


def _decimal(text: bytes, what: str) -> int:
    if not text.removeprefix(b"-").isdigit() or len(text) > 20:
        raise LayerError(f"a pax header has the {what} {text[:40]!r}")
    return int(text)


def _time(text: bytes) -> int:
    """Seconds with a fraction, as nanoseconds."""
    whole, _, fraction = text.partition(b".")
    if fraction and not fraction.isdigit():
        raise LayerError(f"a pax header has the time {text[:40]!r}")
    part_ns = int(fraction[:9].ljust(9, b"0")) if fraction else 0
    seconds = _cut(_decimal(whole, "time"))
    return seconds * _NANOSECONDS + (-part_ns if whole.startswith(b"-") else part_ns)


def _cut(seconds: int) -> int:
    return max(-_MAX_TIME, min(seconds, _MAX_TIME))


def _checked(name: bytes, what: str) -> bytes:
    if len(name) > MAX_PATH_BYTES or b"\0" in name:
        raise LayerError(f"the {what} {_shown(name)} is too long or holds the character NUL")
    return name


def _shown(name: bytes) -> str:
    return repr(name[:80].decode(errors="backslashreplace"))
