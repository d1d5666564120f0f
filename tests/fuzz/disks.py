"""Targets about files that are imported: disk formats, appliances, what is on a disk. And small valid files."""

from __future__ import annotations

import io
import struct
import tarfile
import uuid
import zlib
from contextlib import suppress

from vdc.images.boot import inspect_boot
from vdc.images.boot.cdrom import read_catalogue
from vdc.images.boot.fat import list_folder
from vdc.images.content import BytesContent, Window
from vdc.images.formats.archive import read_archive
from vdc.images.formats.examine import FORMATS, examine, format_of
from vdc.images.formats.ovf import parse_ovf
from vdc.images.formats.qcow2_content import Qcow2Content, UnreadableError
from vdc.images.formats.vmdk import describe, parse_descriptor
from vdc.model.errors import InvalidError

MIB = 1024**2
SIZE = 20 * MIB
DESCRIPTION = (
    b"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
    b'createType="monolithicSparse"\nRW 40960 SPARSE "a.vmdk"\nddb.adapterType = "ide"\n'
)
EXTENTS = DESCRIPTION.replace(b"monolithicSparse", b"twoGbMaxExtentFlat").replace(
    b'SPARSE "a.vmdk"', b'FLAT "a-f001.vmdk" 0\nRW 8 ZERO'
)
OVF = b"""<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vmw="http://www.vmware.com/schema/ovf">
 <References><File ovf:href="a%20b.vmdk" ovf:id="f1"/><File ovf:href="data.vmdk" ovf:id="f2"/></References>
 <DiskSection><Disk ovf:diskId="d2" ovf:fileRef="f2"/><Disk ovf:diskId="d1" ovf:fileRef="f1"/>
  <Disk ovf:diskId="empty" ovf:capacity="1"/></DiskSection>
 <VirtualSystem ovf:id="box"><VirtualHardwareSection>
  <Item><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
  <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ResourceType>4</rasd:ResourceType>
   <rasd:VirtualQuantity>4096</rasd:VirtualQuantity></Item>
  <Item><rasd:ResourceType>10</rasd:ResourceType></Item><Item><rasd:ResourceType>10</rasd:ResourceType></Item>
  <Item><rasd:HostResource>ovf:/disk/d1</rasd:HostResource><rasd:ResourceType>17</rasd:ResourceType></Item>
  <Item><rasd:HostResource>ovf:/disk/d2</rasd:HostResource><rasd:ResourceType>17</rasd:ResourceType></Item>
  <vmw:Config vmw:key="firmware" vmw:value="efi"/>
 </VirtualHardwareSection></VirtualSystem>
</Envelope>
"""


# ---- small valid files


def sparse_vmdk(
    text: bytes = DESCRIPTION, *, flags: int = 3, capacity: int = SIZE // 512, grain: int = 128, tables: int = 21,
    version: int = 1, packing: int = 0, rest: bytes = b"",
) -> bytes:  # fmt: skip
    head = struct.pack(
        "<4sIIQQQQIQQQ?4sH", b"KDMV", version, flags, capacity, grain, 1 if text else 0, 20 if text else 0, 512,
        0, tables, 128, False, b"\n \r\n", packing,
    )  # fmt: skip
    return head.ljust(512, b"\0") + text.ljust(20 * 512, b"\0") + bytes(8192) + rest


def stream_vmdk(capacity: int = SIZE // 512) -> bytes:
    """Its last header, and the marker of the end, follow the content."""
    options = {"flags": 0x30003, "packing": 1, "version": 3}
    footer = sparse_vmdk(b"", **options, capacity=capacity)[:512]  # type: ignore[arg-type]
    text = DESCRIPTION.replace(b"monolithicSparse", b"streamOptimized")
    whole = sparse_vmdk(text, **options, tables=2**64 - 1)  # type: ignore[arg-type]
    return whole + footer + bytes(512)


def vhd_footer(
    kind: int = 2, *, size: int = MIB, creator: bytes = b"win ", saved: int = 0, checksum: int | None = None
) -> bytes:
    footer = bytearray(512)
    footer[:8] = b"conectix"
    footer[28:32] = creator
    struct.pack_into(">Q", footer, 16, 2**64 - 1 if kind == 2 else 512)
    struct.pack_into(">QQII", footer, 40, size, size, 0, kind)
    footer[84] = saved
    struct.pack_into(">I", footer, 64, (~sum(footer) & 0xFFFFFFFF) if checksum is None else checksum)
    return bytes(footer)


def vhdx(*, parent: bool = False, size: int = SIZE, log: bytes = b"") -> bytes:
    """Region table at 192 KiB, metadata behind it."""
    metadata = 320 * 1024
    region = b"regi" + struct.pack("<III", 0, 1, 0)
    region += uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le + struct.pack(
        "<QII", metadata, 65536, 1
    )
    items = (
        ("caa16737-fa36-4d43-b3b6-33f0aa44e76b", struct.pack("<II", MIB, 2 if parent else 0)),
        ("2fa54224-cd1b-4876-b211-5dbed83bf4b8", struct.pack("<Q", size)),
    )
    table, values = b"metadata" + struct.pack("<HH", 0, len(items)) + bytes(20), b""
    for name, value in items:
        table += uuid.UUID(name).bytes_le + struct.pack("<IIII", 1024 + len(values), len(value), 6, 0)
        values += value
    heads = [(b"head" + struct.pack("<IQ", 0, n)).ljust(48, b"\0") + log.ljust(16, b"\0") for n in (2, 1)]
    whole = b"vhdxfile".ljust(64 * 1024, b"\0") + heads[0].ljust(64 * 1024, b"\0") + heads[1]
    whole = whole.ljust(192 * 1024, b"\0") + region
    return (whole.ljust(metadata, b"\0") + table.ljust(1024, b"\0") + values).ljust(metadata + 4096, b"\0")


def vdi(
    *, kind: int = 1, size: int = SIZE, link: bytes = b"", blocks: int = 20, version: int = 0x10001
) -> bytes:
    head = b"<<< a VDI >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe" + struct.pack("<III", version, 400, kind)
    head = head.ljust(340, b"\0") + struct.pack("<IIIIIII", 512, 1024, 0, 0, 0, 512, 0)
    head += struct.pack("<QIIII", size, MIB, 0, blocks, 0) + bytes(32) + link.ljust(32, b"\0")
    return (head.ljust(512, b"\0") + b"\xff" * 4 * min(blocks, 64)).ljust(4096, b"\0")


def qed(*, features: int = 0, size: int = SIZE) -> bytes:
    return (b"QED\0" + struct.pack("<IIIQQQQQ", 65536, 4, 1, features, 0, 0, 4096, size)).ljust(8192, b"\0")


def archive(*files: tuple[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def fat(
    names: tuple[str, ...] = ("BOOTX64.EFI",), *, bits: int = 12, folders: tuple[str, ...] = ("EFI", "BOOT")
) -> bytes:
    """A file system with these names in EFI/BOOT; clusters of a sector each."""
    clusters = {12: 100, 16: 5000, 32: 70_000}[bits]
    root_entries, table = (0 if bits == 32 else 16), -(-(clusters + 2) * bits // 8 // 512) + 1
    sector = bytearray(512)
    struct.pack_into("<HBHBHHBH", sector, 11, 512, 1, 1, 1, root_entries, 0, 0xF8, 0 if bits == 32 else table)
    data = 1 + table + root_entries * 32 // 512
    struct.pack_into("<II", sector, 32, data + clusters, table)
    struct.pack_into("<I", sector, 44, 2)
    sector[510:512] = b"\x55\xaa"

    def entry(name: str, cluster: int, attributes: int) -> bytes:
        stem, _, extension = name.partition(".")
        return (stem.ljust(8) + extension.ljust(3)).encode() + struct.pack(
            "<B8xHHHHI", attributes, 0, 0, 0, cluster, 0
        )

    label = entry("LABEL", 0, 8)
    root = label + entry("EFI", 3, 0x10)
    efi = entry("BOOT", 4, 0x10)
    boot = b"".join(entry(name, 5, 0x20) for name in names)
    ends = {12: 0xFFF, 16: 0xFFFF, 32: 0x0FFFFFFF}[bits]
    number = 0
    for cluster in range(2, 6):
        number |= ends << cluster * bits
    tables = number.to_bytes(table * 512, "little")
    if bits == 32:
        content = root.ljust(512, b"\0")
    else:
        tables, content = tables + root.ljust(root_entries * 32, b"\0"), bytes(512)
    content += efi.ljust(512, b"\0") + boot.ljust(512, b"\0")
    return bytes(sector) + tables + content


def mbr(*entries: tuple[int, int, int, int], code: bytes = b"\xfa\xeb") -> bytes:
    """Entries: (flags, type, first sector, sectors)."""
    table = b"".join(
        struct.pack("<B3sB3sII", flags, b"", kind, b"", first, count) for flags, kind, first, count in entries
    )
    return code.ljust(446, b"\0") + table.ljust(64, b"\0") + b"\x55\xaa"


EFI_SYSTEM, BIOS_BOOT = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "21686148-6449-6e6f-744e-656564454649"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"


def gpt(*parts: tuple[str, int, bytes, int], code: bytes = b"", flags: int = 0) -> bytes:
    """Parts: (type, first sector, content, attributes)."""
    table, disk = b"", b""
    for kind, first, content, attributes in parts:
        last = first + max(1, -(-len(content) // 512)) - 1
        table += (
            uuid.UUID(kind).bytes_le + bytes(16) + struct.pack("<QQQ", first, last, attributes) + bytes(72)
        )
    header = b"EFI PART" + bytes(64) + struct.pack("<QIII", 2, 128, 128, 0)
    whole = (
        mbr((flags, 0xEE, 1, 0xFFFFFFFF), code=code)
        + header.ljust(512, b"\0")
        + table.ljust(128 * 128, b"\0")
    )
    for _, first, content, _ in parts:
        whole = whole.ljust(first * 512, b"\0")
        whole = whole[: first * 512] + content + whole[first * 512 + len(content) :]
    return whole.ljust(-(-len(whole) // 512) * 512 + 512, b"\0") + disk


def iso(*, platforms: tuple[int, ...] = (0, 0xEF), first: bytes = b"", efi: bytes = b"") -> bytes:
    """With a catalogue of entries for these platforms; the one of UEFI begins at block 20."""
    whole = bytearray(40 * 1024)
    whole[: len(first)] = first
    whole[16 * 2048 : 16 * 2048 + 7] = b"\x01CD001\x01"
    record = b"\0CD001\x01EL TORITO SPECIFICATION".ljust(71, b"\0") + struct.pack("<I", 19)
    whole[17 * 2048 : 17 * 2048 + len(record)] = record
    whole[18 * 2048 : 18 * 2048 + 7] = b"\xffCD001\x01"
    table = (b"\x01" + bytes([platforms[0]])).ljust(30, b"\0") + b"\x55\xaa"
    for number, platform in enumerate(platforms):
        if number:
            table += bytes([0x91, platform]).ljust(32, b"\0")
        table += struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, 4, 20).ljust(32, b"\0")
    whole[19 * 2048 : 19 * 2048 + len(table)] = table
    return (bytes(whole).ljust(20 * 2048, b"\0") + efi).ljust(60 * 1024, b"\0")


def small_qcow2(content: dict[int, bytes], *, packed: bool = False, virtual_bytes: int = 1 << 20) -> bytes:
    """Clusters of 512 bytes by their number."""
    l1, l2, data = 1024, 2048, 4096
    head = struct.pack(">4sIQIIQIIQ", b"QFI\xfb", 2, 0, 0, 9, virtual_bytes, 0, 32, l1)
    table, body = bytearray(512), b""
    for cluster, text in content.items():
        place = data + len(body)
        if packed:
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            deflated = packer.compress(text) + packer.flush()
            struct.pack_into(">Q", table, 8 * cluster, 1 << 62 | place)
            body += deflated.ljust(512, b"\0")
        else:
            struct.pack_into(">Q", table, 8 * cluster, place)
            body += text.ljust(512, b"\0")
    whole = head.ljust(l1, b"\0") + struct.pack(">Q", l2)
    return whole.ljust(l2, b"\0") + bytes(table).ljust(data - l2, b"\0") + body


# ---- targets


def disk_formats(data: bytes) -> None:
    content = BytesContent(data)
    with suppress(InvalidError):
        assert format_of(content, None) in FORMATS
    for name in FORMATS:
        with suppress(InvalidError):
            found = examine(content, name)
            assert 0 < found.virtual_bytes <= 64 * 1024**4 and found.most_bytes >= 0
            assert all("/" not in extent.file for extent in found.extents)


_VHDX_PARTS = ((64 * 1024, 64), (192 * 1024, 64), (320 * 1024, 1200))  # where they lie, and how much of each


def vhdx_parts(data: bytes) -> None:
    """Its parts, at their places: whole files are too large to be changed at random."""
    whole = bytearray(b"vhdxfile".ljust(324 * 1024, b"\0"))
    for place, length in _VHDX_PARTS:
        part, data = data[:length], data[length:]
        whole[place : place + len(part)] = part
    disk_formats(bytes(whole))


def vmdk_description(data: bytes) -> None:
    """What is written anew is read as the same."""
    with suppress(InvalidError):
        extents = parse_descriptor(data)
        if not any('"' in extent.file or extent.file != extent.file.strip() for extent in extents):
            assert parse_descriptor(describe(extents)) == extents


def appliance(data: bytes) -> None:
    with suppress(InvalidError):
        for entry in read_archive(BytesContent(data)):
            assert entry.place + entry.size_bytes <= len(data)
            assert ".." not in entry.name.split("/") and not entry.name.startswith("/")
    with suppress(InvalidError):
        found = parse_ovf(data)
        assert found.disks and found.memory_bytes >= 0


def bootable(data: bytes) -> None:
    disk = BytesContent(data, 1 << 30)
    for is_iso in (False, True):
        inspect_boot(disk, is_iso=is_iso)
    read_catalogue(disk)
    for volume in (disk, Window(disk, 512, len(data))):
        names = list_folder(volume, "EFI", "BOOT")
        assert names is None or len(names) <= 1 << 15


def qcow2_content(data: bytes) -> None:
    with suppress(UnreadableError):
        content = Qcow2Content(BytesContent(data))
        assert len(content.read(0, 4096)) == min(4096, content.size_bytes)
        content.read(content.size_bytes - 512, 1024)


TARGETS = (
    (
        "disk-formats",
        disk_formats,
        (
            sparse_vmdk(),
            stream_vmdk(),
            vhd_footer(3),
            vdi(),
            qed(),
            EXTENTS,
            bytes(1024) + vhd_footer(2, size=1024),
        ),
    ),
    ("vhdx", vhdx_parts, (b"".join(vhdx()[place : place + length] for place, length in _VHDX_PARTS),)),
    ("vmdk-description", vmdk_description, (DESCRIPTION, EXTENTS)),
    (
        "appliance",
        appliance,
        (
            OVF,
            archive(("a.ovf", b"<a/>"), ("b/c", b"x")),
            archive(("n" * 200, b"y"), form=tarfile.PAX_FORMAT),
        ),
    ),
    (
        "bootable",
        bootable,
        (gpt((EFI_SYSTEM, 64, fat(), 0)), mbr((0x80, 0x83, 1, 9)), iso(efi=fat()), fat(bits=16)),
    ),
    ("qcow2-content", qcow2_content, (small_qcow2({0: b"a"}), small_qcow2({0: b"a" * 512}, packed=True))),
)
