"""ext4's records, read back by what Linux' documentation says of them. Whole file systems: tests/integration."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdc.images.ext4.attributes import pack_attributes
from vdc.images.ext4.build import DEFAULT_BYTES, disk_bytes
from vdc.images.ext4.fill import Layout, lay_out
from vdc.images.ext4.records import (
    BLOCK_BYTES,
    extent_blocks,
    folder_blocks,
    pack_device,
    pack_extents,
    pack_folder,
    pack_inode,
)
from vdc.images.filetree import Kind, Node, Piece
from vdc.model.errors import InvalidError, RefusedError
from vdc.model.units import GIB


def folder_entries(content: bytes) -> list[tuple[bytes, int, int]]:
    found = []
    for start in range(0, len(content), BLOCK_BYTES):
        place = start
        while place < start + BLOCK_BYTES:
            number, length, name_bytes, kind = struct.unpack_from("<IHBB", content, place)
            assert length % 4 == 0 and length >= 8 + name_bytes
            found.append((content[place + 8 : place + 8 + name_bytes], number, kind))
            place += length
        assert place == start + BLOCK_BYTES, "the last entry reaches to the end of its block"
    return found


@given(st.lists(st.binary(min_size=1, max_size=255), unique=True, max_size=200))
def test_a_folder_has_every_name_once(names: list[bytes]) -> None:
    content = [(name, number + 12, Kind.FILE) for number, name in enumerate(names)]
    packed = pack_folder(11, 2, content)
    assert len(packed) == BLOCK_BYTES * folder_blocks(names)
    assert folder_entries(packed) == [
        (b".", 11, 2), (b"..", 2, 2), *((name, number, 1) for name, number, _ in content),
    ]  # fmt: skip


def test_a_block_may_be_full() -> None:
    names = [b"%0248d" % number for number in range(31)]  # 15 beside the two that each folder has, and 16
    assert folder_blocks(names) == 2
    assert len(pack_folder(11, 2, ((name, 12, Kind.FILE) for name in names))) == 2 * BLOCK_BYTES


def extents_of(place: bytes, blocks: dict[int, bytes]) -> list[tuple[int, int, int]]:
    magic, count, _, depth = struct.unpack_from("<HHHH", place)
    assert magic == 0xF30A
    found = []
    for index in range(count):
        if depth:
            _, low, high = struct.unpack_from("<IIH", place, 12 + 12 * index)
            found += extents_of(blocks[low | high << 32], blocks)
        else:
            first, length, high, low = struct.unpack_from("<IHHI", place, 12 + 12 * index)
            found.append((first, low | high << 32, length))
    return found


@pytest.mark.parametrize("number", [0, 1, 4, 5, 340, 341, 1361, 130_000])
def test_extents_in_trees_of_any_depth(number: int) -> None:
    extents = [(2 * index, (1 << 33) + 3 * index, 1) for index in range(number)]
    blocks: dict[int, bytes] = {}

    def write(content: bytes) -> int:
        assert len(content) == BLOCK_BYTES
        blocks[(1 << 40) + len(blocks)] = content
        return (1 << 40) + len(blocks) - 1

    place, written = pack_extents(extents, write)
    assert len(place) == 60 and written == len(blocks) == extent_blocks(number)
    assert extents_of(place, blocks) == extents


@pytest.mark.parametrize(
    ("mtime_ns", "seconds", "nanoseconds"),
    [
        (1_500_000_007, 1, 500_000_007),
        (-1, -1, 999_999_999),
        (2**31 * 10**9, 2**31, 0),
        (2**33 * 10**9 + 1, 2**33, 1),
        (2**40 * 10**9, 2**34 - 2**31 - 1, 0),
        (-(2**40) * 10**9 + 5, -(2**31), 0),
    ],
)
def test_times(mtime_ns: int, seconds: int, nanoseconds: int) -> None:
    node = Node(Kind.FILE, 0o4755, uid=3_000_000, gid=70_000, mtime_ns=mtime_ns)
    record = pack_inode(node, links=2, size=2**33 + 1, blocks=2**30, place=bytes(60), has_extents=True)
    assert len(record) == 256
    low, extra = struct.unpack_from("<i", record, 16)[0], struct.unpack_from("<I", record, 136)[0]
    assert (low + ((extra & 3) << 32), extra >> 2) == (seconds, nanoseconds)
    assert struct.unpack_from("<H", record, 0)[0] == 0o104755
    uid = struct.unpack_from("<H", record, 2)[0] | struct.unpack_from("<H", record, 120)[0] << 16
    gid = struct.unpack_from("<H", record, 24)[0] | struct.unpack_from("<H", record, 122)[0] << 16
    assert (uid, gid) == (3_000_000, 70_000)
    assert (
        struct.unpack_from("<I", record, 4)[0] | struct.unpack_from("<I", record, 108)[0] << 32 == 2**33 + 1
    )
    assert struct.unpack_from("<I", record, 28)[0] | struct.unpack_from("<H", record, 116)[0] << 32 == 2**33


def test_devices() -> None:
    assert struct.unpack_from("<II", pack_device((1, 3))) == (0x103, 0)
    assert struct.unpack_from("<II", pack_device((259, 70_000))) == (
        0,
        70_000 & 0xFF | 259 << 8 | (70_000 >> 8) << 20,
    )


def test_attributes_go_into_the_inode_and_then_into_a_block() -> None:
    assert pack_attributes(
        [(b"com.apple.provenance", b"x"), (b"user.", b"y"), (b"system.unknown", b"z")]
    ) == (b"", b"")
    inner, outer = pack_attributes([(b"security.capability", b"c" * 20)])
    assert len(inner) == 96 and outer == b"" and inner.endswith(b"c" * 20)
    inner, outer = pack_attributes([(b"user.a", b"1" * 10), (b"user.b", b"2" * 500)])
    assert len(inner) == 96 and len(outer) == BLOCK_BYTES
    with pytest.raises(InvalidError) as caught:
        pack_attributes([(b"user.large", b"x" * 5000)])
    assert caught.value.code == "image-attributes-large"


def test_access_control_lists_have_a_form_of_their_own() -> None:
    given_form = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *one)
        for one in ((1, 6, 2**32 - 1), (2, 4, 1000), (4, 4, 2**32 - 1), (32, 0, 2**32 - 1))
    )
    inner, _ = pack_attributes([(b"system.posix_acl_access", given_form)])
    stored = struct.pack("<IHHHHIHHHH", 1, 1, 6, 2, 4, 1000, 4, 4, 32, 0)
    assert stored in inner
    for wrong in (b"", b"\1\0\0\0", given_form[:-1]):
        assert pack_attributes([(b"system.posix_acl_access", wrong)]) == (b"", b"")


def test_inodes_are_numbered_in_order_and_names_counted() -> None:
    file, root, sub = Node(Kind.FILE), Node(Kind.FOLDER), Node(Kind.FOLDER)
    root.children = {b"b": sub, b"a": file, b"c": file}
    sub.children = {b"x": file, b"y": Node(Kind.FOLDER)}
    layout = lay_out(root)
    assert list(layout.numbers.values()) == [2, 11, 12, 13]
    assert (layout.numbers[file], layout.links[file], layout.links[root], layout.links[sub]) == (11, 3, 3, 3)
    assert layout.parents[sub] == 2 and layout.largest_folder == 3
    root.children = {b"%d" % number: file for number in range(65_001)}
    with pytest.raises(InvalidError) as caught:
        lay_out(root)
    assert caught.value.code == "image-links-many"
    root.children = {b"%d" % number: Node(Kind.FOLDER) for number in range(65_001)}
    assert lay_out(root).links[root] == 1


def test_a_disk_has_room_for_what_is_in_it() -> None:
    def needs(size: int) -> Layout:
        root = Node(
            Kind.FOLDER,
            children={b"f": Node(Kind.FILE, size=size, pieces=(Piece(0, size, 0, 0),) if size else ())},
        )
        return lay_out(root)

    assert disk_bytes(needs(0)) == DEFAULT_BYTES
    assert disk_bytes(needs(4 * GIB)) == DEFAULT_BYTES
    large = disk_bytes(needs(20 * GIB))
    assert large % GIB == 0 and 25 * GIB <= large <= 30 * GIB
    with pytest.raises(RefusedError):
        disk_bytes(needs(15 * 1024 * GIB))
