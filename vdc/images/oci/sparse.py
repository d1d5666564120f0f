"""Sparse files in tar archives: which parts of a file an archive holds, in the four ways that GNU tar has for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vdc.images.oci.window import BLOCK_BYTES, LayerError, Window, to_number

MAX_PIECES = 100_000
MAX_FILE_BYTES = 16 * 1024**4 - 4096  # of ext4 with blocks of 4 KiB
_IN_HEADER, _IN_EXTENSION, _PAIR_BYTES = 4, 21, 24
_MAX_DIGITS = 20

Pieces = tuple[tuple[int, int, int], ...]


def gnu_map(window: Window, content: int, stored: int) -> tuple[int, Pieces, int]:
    """Of an entry of type S, whose map is in its header and in blocks behind it.

    `content` is where the entry's header ends. Returns the file's size, its pieces, and the size of the map's blocks.
    """
    header = window.read(content - BLOCK_BYTES, BLOCK_BYTES)
    pairs = _pairs(header[386 : 386 + _IN_HEADER * _PAIR_BYTES])
    goes_on, size, place = header[482] != 0, to_number(header[483:495], "size"), content
    while goes_on:
        block = window.read(place, BLOCK_BYTES)
        pairs += _pairs(block[: _IN_EXTENSION * _PAIR_BYTES])
        goes_on = block[_IN_EXTENSION * _PAIR_BYTES] != 0
        place += BLOCK_BYTES
        if len(pairs) > MAX_PIECES:
            raise LayerError("a sparse file has too many parts")
    return size, _placed(pairs, place, stored, size, window), place - content


def pax_map(
    window: Window,
    content: int,
    stored: int,
    pax: Mapping[bytes, bytes],
    repeated: Sequence[tuple[bytes, bytes]],
) -> tuple[int, Pieces]:
    """Of an entry with GNU's pax records: its size and its pieces. `repeated` are those of version 0.0 in order."""
    version = (pax.get(b"GNU.sparse.major", b"0"), pax.get(b"GNU.sparse.minor", b"0"))
    size = _decimal(pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size") or b"")
    if version == (b"1", b"0"):
        pairs, begins = _map_in_content(window, content, stored)
        return size, _placed(pairs, begins, stored - (begins - content), size, window)
    if version[0] != b"0":
        raise LayerError(f"a sparse file is of version {version[0][:8].decode(errors='replace')}")
    texts = (
        pax[b"GNU.sparse.map"].split(b",") if b"GNU.sparse.map" in pax else [value for _, value in repeated]
    )
    if len(texts) % 2 or len(texts) > 2 * MAX_PIECES:
        raise LayerError("the map of a sparse file is damaged")
    numbers = [_decimal(text) for text in texts if text]
    return size, _placed(list(zip(numbers[::2], numbers[1::2], strict=True)), content, stored, size, window)


def _pairs(table: bytes) -> list[tuple[int, int]]:
    found = []
    for start in range(0, len(table), _PAIR_BYTES):
        if not table[start + 12]:
            break
        found.append(
            (
                to_number(table[start : start + 12], "offset"),
                to_number(table[start + 12 : start + 24], "size"),
            )
        )
    return found


def _map_in_content(window: Window, content: int, stored: int) -> tuple[list[tuple[int, int]], int]:
    """Version 1.0: decimal lines at the beginning of the content, filled up to a block."""
    lines: list[bytes] = []
    wanted, rest, place = 1, b"", content
    while len(lines) < wanted:
        if place + BLOCK_BYTES > content + stored:
            raise LayerError("the map of a sparse file is damaged")
        *more, rest = (rest + window.read(place, BLOCK_BYTES)).split(b"\n")
        place += BLOCK_BYTES
        lines += more
        if lines:
            wanted = 1 + 2 * _decimal(lines[0])
        if wanted > 1 + 2 * MAX_PIECES or (len(lines) < wanted and len(rest) > _MAX_DIGITS):
            raise LayerError("the map of a sparse file is damaged")
    numbers = [_decimal(line) for line in lines[1:wanted]]
    return list(zip(numbers[::2], numbers[1::2], strict=True)), place


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise LayerError("the map of a sparse file is damaged")
    return int(text)


def _placed(pairs: list[tuple[int, int]], place: int, stored: int, size: int, window: Window) -> Pieces:
    """The parts with their places: they are in order, within the file, and exactly what the archive holds."""
    if not 0 <= size <= MAX_FILE_BYTES:
        raise LayerError(f"a file has {size} bytes")
    pieces, end, held = [], 0, 0
    for offset, length in pairs:
        if length < 0 or not end <= offset <= offset + length <= size:
            raise LayerError("the map of a sparse file is damaged")
        if length:
            pieces.append((offset, length, place + held))
        end, held = offset + length, held + length
    if held > stored or place + held > window.size:
        raise LayerError("the map of a sparse file names more than there is")
    return tuple(pieces)
