"""Reading the headers of tar archives: every way to say something, and every way to say nonsense."""

from __future__ import annotations

import io
import struct
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oci_support import content_of, entries_of, merged

from tests.oci_layout import entry, folder, link, tar_of
from vdc.images.oci.tar import EntryKind
from vdc.images.oci.window import LayerError, to_number

ZEROS = bytes(1024)


def header(name: bytes, size: int = 0, letter: bytes = b"0", **fields: bytes) -> bytes:
    """A header whose fields are bytes, with a right checksum."""
    block = bytearray(512)
    values = {
        "name": (0, name), "mode": (100, b"0000644"), "uid": (108, b"0000000"), "gid": (116, b"0000000"),
        "octal_size": (124, b"%011o" % size), "mtime": (136, b"%011o" % 0), "letter": (156, letter), "link": (157, b""),
        "magic": (257, b"ustar\x0000"), "major": (329, b""), "minor": (337, b""), "prefix": (345, b""),
    }  # fmt: skip
    for field, (place, default) in values.items():
        value = fields.get(field, default)
        block[place : place + len(value)] = value
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    body = b""
    for key, value in records:
        rest = b" " + key + b"=" + value + b"\n"
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        body += str(length).encode() + rest
    return header(b"pax", len(body), b"x") + padded(body)


def test_each_kind_is_told() -> None:
    archive = tar_of(
        folder("d", mode=0o1777, uid=3, gid=4, mtime=5),
        entry("d/file", b"text", mode=0o4755),
        link("d/soft", "/etc/x"),
        link("d/hard", "d/file", hard=True),
        entry("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("disk", kind=tarfile.BLKTYPE, devmajor=259, devminor=70_000),
        entry("pipe", kind=tarfile.FIFOTYPE),
    )
    found = {one.name: one for one in entries_of(archive)}
    assert [one.kind.name for one in found.values()] == [
        "FOLDER", "FILE", "SYMLINK", "HARD_LINK", "CHARACTER", "BLOCK", "FIFO",
    ]  # fmt: skip
    top = found[b"d/"] if b"d/" in found else found[b"d"]
    assert (top.permissions, top.uid, top.gid, top.mtime_ns) == (0o1777, 3, 4, 5 * 10**9)
    assert found[b"d/file"].permissions == 0o4755 and found[b"d/file"].size == 4
    assert found[b"d/soft"].link == b"/etc/x" and found[b"d/hard"].link == b"d/file"
    assert found[b"null"].device == (1, 3) and found[b"disk"].device == (259, 70_000)


@pytest.mark.parametrize("is_pax", [True, False])
def test_long_names_and_large_numbers(is_pax: bool) -> None:
    name, target = "f/" + "n" * 240, "t" * 3000
    archive = tar_of(
        entry(name, b"x", uid=3_000_000_000, gid=2_097_152, mtime=2**33), link("l", target), pax=is_pax
    )
    first, second = entries_of(archive)
    assert (first.name, first.uid, first.gid) == (name.encode(), 3_000_000_000, 2_097_152)
    assert first.mtime_ns == 2**33 * 10**9
    assert second.link == target.encode()


def test_names_are_bytes() -> None:
    assert entries_of(header(b"caf\xe9") + ZEROS)[0].name == b"caf\xe9"
    assert entries_of(header(b"b", prefix=b"a") + ZEROS)[0].name == b"a/b"
    assert entries_of(header(b"b", prefix=b"a", magic=b"ustar  \0") + ZEROS)[0].name == b"b"
    assert entries_of(header(b"old/", letter=b"\0") + ZEROS)[0].kind is EntryKind.FOLDER
    star = bytearray(header(b"b", prefix=b"a" * 131 + b"12345678901")[:508] + b"tar\0")
    star[148:156] = b" " * 8
    star[148:155] = b"%06o\0" % sum(star)
    assert entries_of(bytes(star) + ZEROS)[0].name == b"a" * 131 + b"/b"


def test_pax_records_go_before_the_header() -> None:
    records = pax(
        (b"path", b"from/pax"), (b"uid", b"70000"), (b"gid", b"8"), (b"mtime", b"-1.5"), (b"size", b"3"),
        (b"SCHILY.xattr.user.a", b"1\n2"), (b"SCHILY.xattr.user.empty", b""), (b"comment", b"x"), (b"gname", b""),
    )  # fmt: skip
    archive = records + header(b"header", 0) + padded(b"abc") + header(b"next") + ZEROS
    first, second = entries_of(archive)
    assert (first.name, first.uid, first.gid, first.size) == (b"from/pax", 70000, 8, 3)
    assert first.mtime_ns == -1_500_000_000
    assert first.xattrs == ((b"user.a", b"1\n2"),)
    assert (second.name, second.xattrs, second.uid) == (b"next", (), 0)


def test_global_headers_do_not_count_and_links_have_no_content() -> None:
    body = pax((b"path", b"global"))[512:]
    archive = header(b"g", 16, b"g") + body + header(b"v", letter=b"V") + header(b"s", 700, b"2", link=b"t")
    (only, after) = entries_of(archive + header(b"after") + ZEROS)
    assert (only.name, only.size, after.name) == (b"s", 0, b"after")


def test_an_archive_may_end_without_a_mark() -> None:
    assert len(entries_of(header(b"a"))) == 1
    assert len(entries_of(header(b"a") + bytes(512))) == 1
    assert len(entries_of(header(b"a") + ZEROS + b"rubbish")) == 1
    assert entries_of(b"") == []


SPARSE = [(1024, 512), (8192, 100)]
DATA = b"A" * 512 + b"B" * 100


def gnu_sparse() -> bytes:
    block = bytearray(header(b"sparse", 612, b"S", magic=b"ustar  \0"))
    pairs = [*SPARSE, (10_000, 0)]
    for index, (offset, size) in enumerate(pairs):
        block[386 + 24 * index : 410 + 24 * index] = b"%011o\0%011o\0" % (offset, size)
    block[483:495] = b"%011o\0" % 10_000
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block) + padded(DATA)


def long_gnu_sparse() -> bytes:
    """More parts than the header holds: two blocks of extensions."""
    pairs = [(1024 * number, 4) for number in range(30)]
    block = bytearray(header(b"sparse", 120, b"S", magic=b"ustar  \0"))
    for index, (offset, size) in enumerate(pairs[:4]):
        block[386 + 24 * index : 410 + 24 * index] = b"%011o\0%011o\0" % (offset, size)
    block[482] = 1
    block[483:495] = b"%011o\0" % 40_000
    extensions = b""
    for number, part in enumerate((pairs[4:25], pairs[25:])):
        table = b"".join(b"%011o\0%011o\0" % pair for pair in part)
        extensions += (table.ljust(504, b"\0") + bytes([number == 0])).ljust(512, b"\0")
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block) + extensions + padded(b"".join(b"%04d" % number for number in range(30)))


def pax_sparse(version: str) -> bytes:
    if version == "0.0":
        records = [(b"GNU.sparse.size", b"10000"), (b"GNU.sparse.numblocks", b"2")]
        for offset, size in SPARSE:
            records += [(b"GNU.sparse.offset", b"%d" % offset), (b"GNU.sparse.numbytes", b"%d" % size)]
        return pax(*records) + header(b"sparse", 612) + padded(DATA)
    if version == "0.1":
        records = [
            (b"GNU.sparse.size", b"10000"),
            (b"GNU.sparse.map", b"1024,512,8192,100"),
            (b"GNU.sparse.name", b"sparse"),
        ]
        return pax(*records) + header(b"GNUSparseFile.1/sparse", 612) + padded(DATA)
    records = [
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"sparse"),
        (b"GNU.sparse.realsize", b"10000"),
    ]  # fmt: skip
    table = padded(b"2\n1024\n512\n8192\n100\n")
    return pax(*records) + header(b"GNUSparseFile.1/sparse", len(table) + 612) + table + padded(DATA)


@pytest.mark.parametrize("how", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files(how: str) -> None:
    archive = (gnu_sparse() if how == "gnu" else pax_sparse(how)) + header(b"next") + ZEROS
    first, second = entries_of(archive)
    assert (first.name, first.size, second.name) == (b"sparse", 10_000, b"next")
    assert [(offset, size) for offset, size, _ in first.pieces] == SPARSE
    content = content_of(merged(archive).children[b"sparse"], (archive,))
    assert content == bytes(1024) + b"A" * 512 + bytes(8192 - 1536) + b"B" * 100 + bytes(10_000 - 8292)


def test_sparse_files_of_many_parts() -> None:
    archive = long_gnu_sparse() + header(b"next") + ZEROS
    first, second = entries_of(archive)
    assert second.name == b"next" and len(first.pieces) == 30
    content = content_of(merged(archive).children[b"sparse"], (archive,))
    assert [content[1024 * number :][:4] for number in range(30)] == [
        b"%04d" % number for number in range(30)
    ]


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"x" * 512, "checksum"),
        (b"x" * 100, "too early"),
        (header(b"a", 600) + bytes(100), "cut off"),
        (header(b"a") + bytes(512) + b"x" * 512, "zeros"),
        (header(b"a", letter=b"Z"), "unknown type"),
        (header(b"a", uid=b"\x80\0\0\xff\xff\xff\xff\xff"), "owner"),
        (header(b"a", octal_size=b"\xff" * 12), "cut off"),
        (header(b"a", 1 << 21, b"x") + bytes(1 << 21), "says that it has"),
        (header(b"a", 10, b"x") + padded(b"30 path=a\n"), "pax"),
        (header(b"a", 10, b"x") + padded(b"10 path a\n"), "pax"),
        (header(b"a", 10, b"x") + padded(b"-1 path=a\n"), "pax"),
        (pax((b"path", b"a\0b")) + header(b"a"), "NUL"),
        (b"".join(pax((b"k%d" % n, b"v" * 999_000)) for n in range(5)) + header(b"a"), "too many headers"),
        (pax() * 9000 + header(b"a"), "too many headers"),
        (pax((b"path", b"a" * 5000)) + header(b"a"), "too long"),
        (pax((b"size", b"99999999999999999999999")) + header(b"a"), "size"),
        (pax((b"uid", b"-1")) + header(b"a"), "owner"),
        (pax((b"mtime", b"yesterday")) + header(b"a"), "time"),
        (header(b"a", letter=b"3", major=b"7777777"), "device"),
        (pax_sparse("1.0").replace(b"1024\n512", b"9999\n512"), "map"),
        (pax_sparse("1.0").replace(b"2\n1024", b"9\n1024"), "map"),
        (pax_sparse("0.1").replace(b"1024,512", b"9000,512"), "map"),
        (pax_sparse("0.1").replace(b"8192,100", b"8192,900"), "more than there is"),
        (gnu_sparse()[:512] + bytes(512), "cut off"),
    ],
)
def test_nonsense_is_refused(archive: bytes, reason: str) -> None:
    with pytest.raises(LayerError, match=reason) as caught:
        entries_of(archive)
    assert caught.value.code == "image-layer-invalid"


def test_numbers() -> None:
    assert to_number(b"0000644\0", "mode") == 0o644
    assert to_number(b" 644 \0\0\0", "mode") == 0o644
    assert to_number(bytes(8), "mode") == 0
    assert to_number(b"\x80" + (2**40).to_bytes(11, "big"), "size") == 2**40
    assert to_number(b"\xff" * 12, "mtime") == -1
    for text in (b"12x\0", b"9\0", b"-1\0"):
        with pytest.raises(LayerError):
            to_number(text, "size")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_it_reads_it_ends(data: st.DataObject) -> None:
    """A changed archive is read, or refused by the one error."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in (
            entry("a" * 120, b"x" * 700),
            link("b", "a"),
            folder("d"),
            entry("e", b"", uid=2**30),
        ):
            tar.addfile(info, io.BytesIO(content))
    archive = bytearray(gnu_sparse() + pax_sparse("1.0") + pax_sparse("0.0") + buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(archive) - 1))
        archive[place] = data.draw(st.integers(0, 255))
        start = place // 512 * 512
        block = archive[start : start + 512]
        block[148:156] = b" " * 8  # the checksum is no obstacle
        struct.pack_into("7s", archive, start + 148, b"%06o\0" % sum(block))
    try:
        entries = entries_of(bytes(archive[: data.draw(st.integers(0, len(archive)))]))
    except LayerError:
        return
    assert all(size > 0 and offset + size <= one.size for one in entries for offset, size, _ in one.pieces)
