"""What a tar archive holds and where, without unpacking it: an appliance (OVA) is one. Pure.

Only the table of contents is read, and little of each entry: names and sizes, also those of POSIX and GNU extensions.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdc.images.content import Content
from vdc.images.formats.problems import cut_off, unsafe

_NAME = "OVA"
_BLOCK = 512
_MAX_ENTRIES = 1000
_MAX_EXTENSION_BYTES = 64 * 1024
_FILES = (b"0", b"\0", b"7")
_LONG_NAME, _PAX, _PAX_GLOBAL, _LONG_LINK = b"L", b"x", b"g", b"K"


@dataclass(frozen=True, slots=True)
class Entry:
    """A plain file of the archive; `place` is where its content begins."""

    name: str
    place: int
    size_bytes: int


def read_archive(content: Content) -> tuple[Entry, ...]:
    """Its plain files in order. InvalidError (`image-unsafe`) for a damaged one and for names that lead elsewhere."""
    entries: list[Entry] = []
    place, name, size = 0, "", -1
    for _ in range(_MAX_ENTRIES):
        head = content.read(place, _BLOCK)
        if len(head) < _BLOCK or not any(head):
            if not entries or len(head) < _BLOCK:
                raise cut_off(_NAME, "its table of contents")
            return tuple(entries)
        kind, size_bytes = head[156:157], _number(head[124:136]) if size < 0 else size
        _check_sum(head)
        place += _BLOCK
        if place + size_bytes > content.size_bytes:
            raise cut_off(_NAME, f"{(name or _text(head[:100]))[:80]!r}")
        if kind in (_LONG_NAME, _PAX, _PAX_GLOBAL, _LONG_LINK):
            if size_bytes > _MAX_EXTENSION_BYTES:
                raise unsafe(_NAME, "an entry has too long a name", "pack it again")
            text = content.read(place, size_bytes)
            if kind == _LONG_NAME:
                name = _text(text)
            elif kind == _PAX:
                name, size = _pax(text, name, size)
        else:
            if kind in _FILES:
                entries.append(Entry(_checked(name or _full_name(head)), place, size_bytes))
            name, size = "", -1
        place += -(-size_bytes // _BLOCK) * _BLOCK
    raise unsafe(_NAME, f"it has more than {_MAX_ENTRIES} entries", "an appliance has a handful")


def _full_name(head: bytes) -> str:
    prefix = _text(head[345:500]) if head[257:263] == b"ustar\0" else ""
    return f"{prefix}/{_text(head[:100])}" if prefix else _text(head[:100])


def _checked(name: str) -> str:
    plain = name.removeprefix("./")
    if not plain or plain.startswith("/") or ".." in plain.split("/") or not plain.isprintable():
        raise unsafe(_NAME, f"it holds {name[:80]!r}, which leads out of it", "where is it from?")
    return plain


def _check_sum(head: bytes) -> None:
    if sum(head[:148]) + 8 * 0x20 + sum(head[156:]) != _number(head[148:156]):
        raise unsafe(_NAME, "its table of contents is damaged", "fetch the file again")


def _number(field: bytes) -> int:
    """Octal digits, or GNU's big-endian number with the highest bit set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        if digits:
            raise unsafe(_NAME, "its table of contents is damaged", "fetch the file again")
        return 0
    return int(digits, 8)


def _pax(text: bytes, name: str, size: int) -> tuple[str, int]:
    """Records of the form `LENGTH KEY=VALUE\\n`; those that matter here."""
    while text:
        length, _, _ = text.partition(b" ")
        if not length.isdigit() or len(length) > 5 or not len(length) < int(length) <= len(text):
            raise unsafe(_NAME, "an entry is described in a way that is not understood", "pack it again")
        key, _, value = text[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            name = _text(value)
        elif key == b"size" and value.isdigit() and len(value) < 20:
            size = int(value)
        text = text[int(length) :]
    return name, size


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")
