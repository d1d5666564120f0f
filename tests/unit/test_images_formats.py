"""Disk formats and appliances, read by their bytes: what is told of them, and what is refused by name."""

from __future__ import annotations

import struct
import tarfile

import pytest

from tests.fuzz.disks import (
    DESCRIPTION,
    EXTENTS,
    MIB,
    OVF,
    SIZE,
    archive,
    iso,
    mbr,
    qed,
    sparse_vmdk,
    stream_vmdk,
    vdi,
    vhd_footer,
    vhdx,
)
from vdc.images.content import BytesContent, Window
from vdc.images.formats.archive import Entry, read_archive
from vdc.images.formats.detect import detect
from vdc.images.formats.examine import DiskFile, examine, format_of
from vdc.images.formats.ovf import OvfDisk, parse_ovf
from vdc.images.formats.vmdk import Extent, _check_embedded, describe, parse_descriptor
from vdc.model.errors import InvalidError
from vdc.model.manifest import Firmware
from vdc.model.units import GIB


def changed(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


FIXED = bytes(MIB) + vhd_footer(2)
# A directory at sector 21, one table behind it, and one grain of 64 KiB behind that.
GRAINS = changed(
    sparse_vmdk()[: 21 * 512].ljust(26 * 512 + 65536, b"x"), 21 * 512, struct.pack("<128I", 22, *[0] * 127)
)
GRAINS = changed(GRAINS, 22 * 512, struct.pack("<512I", 26, *[0] * 511))
KNOWN = {
    "vmdk": sparse_vmdk(), "vhdx": vhdx(), "vdi": vdi(), "qed": qed(), "iso": iso(), "ova": archive(("a.ovf", OVF)),
    "ovf": OVF, "vhd": vhd_footer(3) + bytes(2048) + vhd_footer(3),
}  # fmt: skip


def found(data: bytes, name: str | None = None) -> DiskFile:
    content = BytesContent(data)
    return examine(content, name or format_of(content, None))


def refused(data: bytes, name: str | None = None) -> InvalidError:
    with pytest.raises(InvalidError) as caught:
        found(data, name)
    return caught.value


# ---- which it is


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_known_by_its_bytes(name: str) -> None:
    content = BytesContent(KNOWN[name])
    assert format_of(content, None) == format_of(content, name) == name


def test_a_fixed_vhd_is_known_by_its_end_and_what_is_called_otherwise_elsewhere() -> None:
    content = BytesContent(FIXED)
    assert detect(content) == format_of(content, "vpc") == "vhd"
    assert format_of(BytesContent(KNOWN["ova"]), "tar") == "ova"
    assert detect(BytesContent(mbr().ljust(1024, b"\0") + vhd_footer(3))) == "raw"


@pytest.mark.parametrize(
    ("data", "wanted", "code", "hint"),
    [
        (bytes(1024), None, "image-format-unknown", "--format raw"),
        (b"LUKS\xba\xbe".ljust(1024), None, "image-format-unsupported", "decrypt"),
        (b"COWD".ljust(1024), None, "image-format-unsupported", "vmkfstools"),
        (b"PK\x03\x04".ljust(1024), None, "image-format-unsupported", "unpack"),
        (bytes(1024), "parallels", "image-format-unsupported", "qcow2, raw, vmdk"),
        (bytes(1024), "vmdk", "image-format-mismatch", "leave --format out"),
        (sparse_vmdk(), "raw", "image-format-mismatch", "leave --format out"),
        (sparse_vmdk(), "vdi", "image-format-mismatch", "leave --format out"),
    ],
)
def test_what_cannot_be_taken_is_named(data: bytes, wanted: str | None, code: str, hint: str) -> None:
    with pytest.raises(InvalidError) as caught:
        format_of(BytesContent(data), wanted)
    assert caught.value.code == code and hint in caught.value.problem.hint


def test_raw_is_raw_where_it_is_said_or_has_a_boot_sector() -> None:
    assert format_of(BytesContent(bytes(1024)), "raw") == "raw"
    assert format_of(BytesContent(mbr()), None) == "raw"
    assert format_of(BytesContent(iso()), "raw") == "raw"
    assert found(bytes(1024), "raw").virtual_bytes == 1024
    assert refused(bytes(1000), "raw").code == "image-unsafe"


# ---- VMDK


def test_sparse_vmdks() -> None:
    plain, stream = found(sparse_vmdk()), found(stream_vmdk())
    assert plain.virtual_bytes == stream.virtual_bytes == SIZE
    assert plain.driver == {"driver": "vmdk"} and not plain.extents
    assert found(GRAINS).virtual_bytes == SIZE
    assert plain.most_bytes - 64 * MIB == 16 * len(sparse_vmdk())
    assert stream.most_bytes - 64 * MIB == 1100 * len(stream_vmdk())  # deflated


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (sparse_vmdk(DESCRIPTION.replace(b"ffffffff", b"12345678")), "snapshot"),
        (sparse_vmdk(DESCRIPTION + b'parentFileNameHint="/etc/shadow"\n'), "snapshot"),
        (sparse_vmdk(DESCRIPTION + b'RW 1 FLAT "/etc/shadow" 0\n'), "no file beside it"),
        (sparse_vmdk(DESCRIPTION.replace(b"monolithicSparse", b"twoGbMaxExtentSparse")), "several files"),
        (sparse_vmdk(DESCRIPTION + b"RW 8 ZERO\n"), "several files"),
        (sparse_vmdk(b""), "one part"),
        (sparse_vmdk(bytes(512)), "one part"),
        (sparse_vmdk(capacity=0), "0 bytes"),  # by which QEMU would read the description, and follow it
        (sparse_vmdk(capacity=2**60), "bytes"),
        (sparse_vmdk(grain=3), "cannot be"),
        (sparse_vmdk(version=9), "version"),
        (sparse_vmdk(flags=0x10003, packing=7), "method 7"),
        (sparse_vmdk(tables=1 << 40), "does not fit"),
        (sparse_vmdk()[:60], "does not fit"),
        (stream_vmdk()[:-1024], "does not fit"),
        (sparse_vmdk(tables=2**64 - 1) + sparse_vmdk(capacity=8)[:512] + bytes(512), "not of the same disk"),
        (GRAINS[:-100], "content does not fit"),
        (changed(GRAINS, 21 * 512, struct.pack("<I", 1 << 30)), "table does not fit"),
        (changed(GRAINS, 22 * 512, struct.pack("<512I", *[26] * 512)), "more than fits"),
        (EXTENTS.replace(b"a-f001.vmdk", b"/etc/shadow"), "no file beside it"),
        (EXTENTS.replace(b"a-f001.vmdk", b"../../etc/shadow"), "no file beside it"),
        (EXTENTS.replace(b"a-f001.vmdk", b"..\\\\x"), "no file beside it"),
        (EXTENTS.replace(b"a-f001.vmdk", b".."), "no file beside it"),
        (EXTENTS.replace(b"FLAT", b"VMFSRDM"), "of kind VMFSRDM"),
        (EXTENTS.replace(b"RW 40960", b"NOACCESS 40960"), "may not be read"),
        (EXTENTS.replace(b"RW 40960", b"RW 4x"), "not understood"),
        (EXTENTS + b'encryption.keySafe = "x"\n', "encrypted"),
        (EXTENTS + b'RW 8 FLAT "x" 0\n' * 300, "parts"),
        (b"# Disk DescriptorFile\nversion=1\n", "0 parts"),
    ],
)
def test_a_vmdk_that_is_more_than_its_files_is_refused(data: bytes, word: str) -> None:
    error = refused(data, "vmdk")
    assert (error.code, word in str(error)) == ("image-unsafe", True), error


def test_a_description_is_followed_to_plain_names_and_written_anew() -> None:
    extents = found(EXTENTS).extents
    assert extents == (Extent("FLAT", SIZE, "a-f001.vmdk"), Extent("ZERO", 4096))
    assert parse_descriptor(describe(extents)) == extents
    windows = parse_descriptor(EXTENTS.replace(b'"a-f001.vmdk" 0', b'"my disk.vmdk" 128'))
    assert windows[0] == Extent("FLAT", SIZE, "my disk.vmdk", 65536)
    assert b"/etc" not in describe(parse_descriptor(EXTENTS + b"# /etc/shadow\n"))


# ---- Microsoft's, VirtualBox's, QED


def test_vhds() -> None:
    assert found(FIXED) == DiskFile(
        "vhd", MIB, {"driver": "vpc", "force_size_calc": "current_size"}, found(FIXED).most_bytes
    )
    assert "force_size_calc" not in found(bytes(MIB) + vhd_footer(2, creator=b"vpc ")).driver
    assert found(KNOWN["vhd"]).virtual_bytes == MIB


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (bytes(MIB) + vhd_footer(4), "snapshot"),
        (bytes(MIB) + vhd_footer(9), "kind 9"),
        (bytes(MIB) + vhd_footer(2, saved=1), "saved state"),
        (bytes(MIB) + vhd_footer(2, checksum=1), "damaged"),
        (bytes(512) + vhd_footer(2), "does not fit"),
        (bytes(MIB) + vhd_footer(3, size=0), "0 bytes"),
        (KNOWN["vhd"][:-5], "does not fit"),
    ],
)
def test_a_vhd_that_is_cut_off_or_over_another_one_is_refused(data: bytes, word: str) -> None:
    error = refused(data, "vhd")
    assert (error.code, word in str(error)) == ("image-unsafe", True), error


def test_vhdx_vdi_and_qed() -> None:
    for name in ("vhdx", "vdi", "qed"):
        assert (found(KNOWN[name]).virtual_bytes, found(KNOWN[name]).driver) == (SIZE, {"driver": name})


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("vhdx", vhdx(parent=True), "snapshot"),
        ("vhdx", vhdx(log=b"x"), "closed cleanly"),
        ("vhdx", vhdx()[: 200 * 1024], "does not fit"),
        ("vhdx", vhdx()[: 193 * 1024 - 1000], "does not fit"),
        ("vhdx", vhdx(size=1 << 60), "header says"),
        ("vdi", vdi(kind=4), "snapshot"),
        ("vdi", vdi(link=b"x"), "snapshot"),
        ("vdi", vdi(blocks=3), "cannot be"),
        ("vdi", vdi(version=0x20000), "version"),
        ("vdi", vdi(blocks=1 << 30, size=1 << 50), "does not fit"),
        ("vdi", vdi()[:300], "does not fit"),
        ("vdi", changed(vdi(), 516, bytes(4)), "content does not fit"),
        ("qed", qed(features=1), "backing file"),
        ("qed", qed(features=64), "unknown features"),
        ("qed", qed(size=1 << 60), "header says"),
        ("qed", qed()[:40], "does not fit"),
    ],
)
def test_others_that_are_cut_off_or_over_another_one_are_refused(name: str, data: bytes, word: str) -> None:
    error = refused(data, name)
    assert (error.code, word in str(error)) == ("image-unsafe", True), error


def test_a_vmdk_description_is_read_in_no_time_whatever_is_in_it() -> None:
    """Backtracking over this line would take days."""
    with pytest.raises(InvalidError):
        parse_descriptor(b"version=1\na=" + b" " * 60_000 + b'"x"y\n')


@pytest.mark.parametrize(
    "line",
    ['parentFileNameHint="/etc/shadow"', '# parentFileNameHint="/etc/shadow"', 'a=parentfilenamehint="x'],
)
def test_a_parent_is_found_wherever_a_sparse_file_names_it(line: str) -> None:
    with pytest.raises(InvalidError, match="snapshot"):
        _check_embedded(f'createType="monolithicSparse"\n{line}\n'.encode())


# ---- archives


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_archive_is_listed_and_not_unpacked(form: int) -> None:
    long = "long/" + "n" * (90 if form == tarfile.USTAR_FORMAT else 190)
    content = BytesContent(
        archive(("box.ovf", b"<a/>"), ("./disk.vmdk", b"x" * 700), (long, b"yz"), form=form)
    )
    names = {entry.name: content.read(entry.place, entry.size_bytes) for entry in read_archive(content)}
    assert names == {"box.ovf": b"<a/>", "disk.vmdk": b"x" * 700, long: b"yz"}


def test_sizes_beyond_octal_digits_are_read() -> None:
    whole = bytearray(archive(("a", b"x")))
    size = (9 << 30) | 5
    whole[124:136] = b"\x80" + size.to_bytes(11, "big")
    whole[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(whole[:512])
    assert read_archive(BytesContent(bytes(whole), 10 << 30))[0] == Entry("a", 512, size)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (archive(("../x", b"")), "leads out"),
        (archive(("/etc/x", b"")), "leads out"),
        (archive(("a/../../x", b"")), "leads out"),
        (archive(("a\nb", b"")), "leads out"),
        (archive(("a", b"x" * 5000))[:3000], "'a' does not fit"),
        (archive(("a", b""))[:100], "table of contents does not fit"),
        (changed(archive(("a", b"")), 0, b"b"), "damaged"),
        (archive(*((str(i), b"") for i in range(1001))), "more than 1000"),
        (bytes(2048), "does not fit"),
    ],
)
def test_a_hostile_or_damaged_archive_is_refused(data: bytes, word: str) -> None:
    with pytest.raises(InvalidError, match=word) as caught:
        read_archive(BytesContent(data))
    assert caught.value.code == "image-unsafe"


# ---- descriptions


def test_a_machine_is_described() -> None:
    machine = parse_ovf(OVF)
    assert machine.disks == (
        OvfDisk("d1", "a%20b.vmdk"),
        OvfDisk("d2", "data.vmdk"),
    )  # as the machine has them
    assert (machine.name, machine.cpus, machine.memory_bytes, machine.nics) == ("box", 2, 4 * GIB, 2)
    assert machine.firmware is Firmware.UEFI
    plain = parse_ovf(OVF.replace(b'"efi"', b'"bios"').replace(b"ovf:/disk/", b"x"))
    assert plain.firmware is None and [disk.disk_id for disk in plain.disks] == ["d2", "d1"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "XML"),
        (OVF[:-20], "XML"),
        (b"<a/>", "no machine"),
        (b'<?xml version="1.0" encoding="ebcdic-cp-us-x"?><a/>', "XML"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]>' + OVF[22:], "entities"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/shadow"><a/>', "entities"),
        (OVF.replace(b"</VirtualSystem>", b'</VirtualSystem><VirtualSystem ovf:id="two"/>'), r"2 machines \(box, two"),
        (OVF.replace(b"<File ", b'<File ovf:compression="gzip" '), "compressed"),
        (OVF.replace(b'ovf:diskId="d2"', b'ovf:diskId="d2" ovf:parentRef="d1"'), "snapshot"),
        (OVF.replace(b"<Disk ", b"<Risk "), "no disk"),
        (b"<a>" * 100, "too many elements"),
        (b"<a>" + b"<b/>" * 30_000 + b"</a>", "too many elements"),
        (b" " * (1 << 21), "longer"),
    ],
)  # fmt: skip
def test_a_hostile_or_unusual_description_is_refused(text: bytes, word: str) -> None:
    with pytest.raises(InvalidError, match=word) as caught:
        parse_ovf(text)
    assert caught.value.code == "image-unsafe" and len(str(caught.value)) < 300


# ---- bytes at places


def test_windows_end_where_they_end() -> None:
    whole = BytesContent(b"0123456789")
    part = Window(whole, 2, 5)
    assert (part.size_bytes, part.read(0, 100), part.read(3, 1), part.read(5, 1)) == (5, b"23456", b"5", b"")
    assert Window(whole, 8, 100).size_bytes == 2 and Window(whole, 20, 1).read(0, 1) == b""
    assert whole.read(-1, 5) == b"" and Window(whole, 1 << 70, 5).read(0, 5) == b""
    assert BytesContent(b"a", 5).read(0, 10) == b"a\0\0\0\0"
    assert struct.unpack("<I", BytesContent(b"", 4).read(0, 4)) == (0,)
