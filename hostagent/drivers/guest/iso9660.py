"""A small file system on a CD: ISO 9660 with Joliet, a few files in one folder. Pure.

Written here because it has to be the same bytes on every host, whatever programs that one has: no time, no tool's
name, no random identifier is in it. Level 2 names in the first tree, the names as they are given in the second one,
which Linux, the BSDs and Windows prefer. Standards: ECMA-119, and the Joliet Specification (Microsoft, 1995).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SECTOR_BYTES: Final = 2048
MOST_FILES: Final = 16  # that one sector has room for
_FIRST_SECTOR: Final = 16  # those before it belong to whatever boots from a CD
_VOLUME, _JOLIET, _END = 1, 2, 255
_UCS2_LEVEL_3: Final = b"%/E"
_WHEN: Final = bytes((100, 1, 1, 0, 0, 0, 0))  # of every file: the first second of 2000, UTC
_WHEN_TEXT, _NEVER_TEXT = b"2000010100000000\0", b"0" * 16 + b"\0"
_FOLDER: Final = 2  # a flag
_NAME_CHARS: Final = 31


@dataclass(frozen=True, slots=True)
class _Entry:
    name: bytes
    sector: int
    size_bytes: int
    flags: int = 0


def iso9660(label: str, files: Mapping[str, bytes]) -> bytes:
    """The image of a CD with these files; names are ASCII, at most 31 characters."""
    if len(files) > MOST_FILES or any(len(name) + 1 > _NAME_CHARS or not name.isascii() for name in files):
        raise ValueError(f"at most {MOST_FILES} files with short names")
    tables, roots = _FIRST_SECTOR + 3, _FIRST_SECTOR + 7  # two tables of each tree, then their folders
    sector, contents, places = roots + 2, [], {}
    for name, content in sorted(files.items()):
        places[name] = _Entry(b"", sector, len(content))
        contents.append(_padded(content))
        sector += len(contents[-1]) // SECTOR_BYTES
    trees = [(_VOLUME, tables, roots), (_JOLIET, tables + 2, roots + 1)]
    parts = [bytes(_FIRST_SECTOR * SECTOR_BYTES)]
    parts += [_descriptor(kind, label, sector, table, root) for kind, table, root in trees]
    parts.append(_padded(struct.pack("<B5sB", _END, b"CD001", 1)))
    parts += [_padded(_path_table(order, root)) for _, _, root in trees for order in "<>"]
    parts += [_folder(kind, root, places) for kind, _, root in trees]
    return b"".join((*parts, *contents))


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % SECTOR_BYTES)


def _text(kind: int, text: str, length: int) -> bytes:
    """Filled up with spaces."""
    if kind == _VOLUME:
        return text.encode("ascii").ljust(length)
    return text.ljust(length // 2).encode("utf-16-be").ljust(length, b"\0")


def _both(form: str, value: int) -> bytes:
    """A number in both byte orders."""
    return struct.pack("<" + form, value) + struct.pack(">" + form, value)


def _record(entry: _Entry) -> bytes:
    length = 33 + len(entry.name) + (len(entry.name) + 1) % 2
    return b"".join(
        (
            bytes((length, 0)), _both("I", entry.sector), _both("I", entry.size_bytes), _WHEN,
            bytes((entry.flags, 0, 0)), _both("H", 1), bytes((len(entry.name),)), entry.name,
        )
    ).ljust(length, b"\0")  # fmt: skip


def _folder(kind: int, sector: int, places: Mapping[str, _Entry]) -> bytes:
    here = _Entry(b"\0", sector, SECTOR_BYTES, _FOLDER)
    above = _Entry(b"\1", sector, SECTOR_BYTES, _FOLDER)
    named = [_Entry(_file_name(kind, name), entry.sector, entry.size_bytes) for name, entry in places.items()]
    return _padded(b"".join(map(_record, (here, above, *sorted(named, key=lambda entry: entry.name)))))


def _file_name(kind: int, name: str) -> bytes:
    if kind == _JOLIET:
        return name.encode("utf-16-be")
    return (name.upper() + ("" if "." in name else ".") + ";1").encode("ascii")


def _path_table(order: str, root: int) -> bytes:
    return struct.pack(order + "BBIH", 1, 0, root, 1) + b"\0\0"


def _descriptor(kind: int, label: str, sectors: int, table: int, root: int) -> bytes:
    table_bytes = len(_path_table("<", 0))
    escape = _UCS2_LEVEL_3 if kind == _JOLIET else b""
    names = b"".join(_text(kind, "", length) for length in (128, 128, 128, 128, 37, 37, 37))
    fields = (
        struct.pack("<B5sBB", kind, b"CD001", 1, 0), _text(kind, "", 32), _text(kind, label, 32), bytes(8),
        _both("I", sectors), escape.ljust(32, b"\0"), _both("H", 1), _both("H", 1), _both("H", SECTOR_BYTES),
        _both("I", table_bytes), struct.pack("<II", table, 0), struct.pack(">II", table + 1, 0),
        _record(_Entry(b"\0", root, SECTOR_BYTES, _FOLDER)), names,
        _WHEN_TEXT, _WHEN_TEXT, _NEVER_TEXT, _WHEN_TEXT, b"\1\0",
    )  # fmt: skip
    return _padded(b"".join(fields))
