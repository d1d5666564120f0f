"""Disk files told apart by their first bytes; hostile ones refused by name."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdc.images.inspect import DiskFacts, detect_format, inspect_disk
from vdc.model.errors import InvalidError

GIB = 1024**3
FILE_BYTES = (3 << 16) + (8 << 9)


def qcow2(
    *,
    version: int = 3,
    backing: int = 0,
    cluster_bits: int = 16,
    size: int = GIB,
    crypt: int = 0,
    features: int = 0,
    header_bytes: int = 112,
    extensions: bytes = b"",
    l1: tuple[int, int] = (1 << 9, 3 << 16),
    refcounts: tuple[int, int] = (1 << 16, 1),
    snapshots: int = 0,
    refcount_order: int = 4,
) -> bytes:
    head = b"QFI\xfb" + struct.pack(
        ">IQIIQI", version, backing, 10 if backing else 0, cluster_bits, size, crypt
    )
    head += struct.pack(">IQQII", *l1, *refcounts, snapshots)
    head = head.ljust(72, b"\0") + struct.pack(">QQQII", features, 0, 0, refcount_order, header_bytes)
    return (head.ljust(header_bytes, b"\0") + extensions).ljust(4096, b"\0")


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">II", kind, len(body)) + body.ljust((len(body) + 7) // 8 * 8, b"\0")


def boot_sector() -> bytes:
    return b"\xeb".ljust(510, b"\0") + b"\x55\xaa"


def code_of(header: bytes, wanted: str | None = None, size: int = 1 << 20) -> str:
    with pytest.raises(InvalidError) as caught:
        inspect_disk(header, size, wanted)
    return caught.value.code


def test_a_plain_qcow2_is_taken_with_its_virtual_size() -> None:
    assert inspect_disk(qcow2(), FILE_BYTES) == DiskFacts("qcow2", GIB)
    assert inspect_disk(qcow2(version=2)[:72], FILE_BYTES, "qcow2") == DiskFacts("qcow2", GIB)
    assert inspect_disk(qcow2(features=8 | 16), FILE_BYTES).virtual_bytes == GIB


def test_names_of_formats_and_bitmaps_in_extensions_are_harmless() -> None:
    harmless = extension(0x6803F857, b"x" * 144) + extension(0x23852875, b"y" * 24)
    assert inspect_disk(qcow2(extensions=harmless), FILE_BYTES).format == "qcow2"


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (qcow2(backing=1024), "backing file"),
        (qcow2(features=4), "external data file"),
        (qcow2(extensions=extension(0x44415441, b"/etc/shadow")), "external data file"),
        (
            qcow2(extensions=extension(0x6803F857, b"x" * 9) + extension(0x44415441, b"/x")),
            "external data file",
        ),
        (qcow2(crypt=1), "encrypted"),
        (qcow2(crypt=2), "encrypted"),
        (qcow2(extensions=extension(0x0537BE77, b"z" * 16)), "encrypted"),
        (qcow2(features=2), "corrupt"),
        (qcow2(features=1), "closed cleanly"),
        (qcow2(features=1 << 20), "unknown features"),
        (qcow2(cluster_bits=40), "cluster size"),
        (qcow2(size=0), "header says"),
        (qcow2(size=1 << 62), "header says"),
        (qcow2(header_bytes=105), "header says"),
        (qcow2(snapshots=1), "internal snapshots"),
        (qcow2(l1=(1, 3 << 16)), "L1 table"),
        (qcow2(l1=(1 << 9, 0)), "L1 table"),
        (qcow2(l1=(1 << 9, (3 << 16) + 8)), "L1 table"),
        (qcow2(l1=(1 << 9, 1 << 40)), "L1 table"),
        (qcow2(l1=(0xFFFFFFFF, 3 << 16)), "L1 table"),
        (qcow2(refcounts=(0, 1)), "refcount table"),
        (qcow2(refcounts=(1 << 16, 0)), "refcount table"),
        (qcow2(refcounts=(1 << 16, 0xFFFFFFFF)), "refcount table"),
        (qcow2(refcounts=(1 << 62, 1)), "refcount table"),
        (qcow2(refcount_order=7), "reference counts"),
        (qcow2(extensions=extension(0x6803F857, b"x" * 100_000)), "no end"),
        (qcow2()[:50], "header says"),
        (b"QFI\xfb\0\0\0\3", "cluster size"),
    ],
)
def test_a_qcow2_that_is_more_than_one_plain_file_is_refused(header: bytes, word: str) -> None:
    with pytest.raises(InvalidError, match=word) as caught:
        inspect_disk(header, 1 << 20)
    assert caught.value.code == "image-unsafe"


def test_a_boot_sector_makes_a_raw_disk() -> None:
    assert inspect_disk(boot_sector(), 1 << 20) == DiskFacts("raw", 1 << 20)


def test_raw_without_a_boot_sector_has_to_be_said() -> None:
    assert code_of(b"\0" * 4096) == "image-format-unknown"
    assert inspect_disk(b"\0" * 4096, 4096, "raw") == DiskFacts("raw", 4096)


@pytest.mark.parametrize("size", [0, 511, 1000])
def test_a_raw_disk_is_whole_sectors(size: int) -> None:
    assert code_of(boot_sector(), size=size) == "image-unsafe"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b"KDMV", "vmdk"),
        (b"# Disk DescriptorFile\nversion=1", "vmdk"),
        (b"#\n\n  # so\n  version=2\n", "vmdk"),
        (b"Bochs Virtual HD Image\0", "bochs"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vhd"),
        (b"\0" * 64 + b"\x7f\x10\xda\xbe", "vdi"),
        (b"QED\0", "qed"),
        (b"LUKS\xba\xbe", "luks"),
        (b"\x1f\x8b\x08", "gzip"),
    ],
)
def test_foreign_formats_are_named(header: bytes, name: str) -> None:
    with pytest.raises(InvalidError, match=name) as caught:
        inspect_disk(header, 1 << 20)
    assert caught.value.code == "image-format-unsupported"


def test_what_the_user_says_must_fit_what_the_file_is() -> None:
    assert code_of(qcow2(), "raw") == "image-format-mismatch"
    assert code_of(b"KDMV", "raw") == "image-format-mismatch"
    assert code_of(boot_sector(), "qcow2") == "image-format-mismatch"
    assert code_of(b"", "vmdk") == "image-format-unsupported"


def test_qcow_version_1_is_not_qcow2() -> None:
    assert code_of(qcow2(version=1)) == "image-format-unsupported"


@given(st.binary(max_size=600), st.sampled_from([None, "raw", "qcow2"]))
def test_no_bytes_bring_it_down(noise: bytes, wanted: str | None) -> None:
    for header in (noise, b"QFI\xfb" + noise, b"QFI\xfb\0\0\0\3" + noise):
        detect_format(header)
        try:
            facts = inspect_disk(header, 1 << 20, wanted)
        except InvalidError:
            continue
        assert facts.virtual_bytes > 0
