"""What a file is, from its bytes. Pure."""

from __future__ import annotations

from vdc.images.content import Content
from vdc.images.formats import hyperv, others, qcow2, vmdk

HEADER_BYTES = 64 * 1024

PACKED = ("gzip", "bzip2", "xz", "zstd")
ISO_MAGIC, ISO_PLACE = b"CD001", 32769
TAR_MAGIC, TAR_PLACE = b"ustar", 257
_BOOT_SECTOR = b"\x55\xaa"

_MAGIC = (
    ("qcow2", 0, qcow2.MAGIC),
    ("vmdk", 0, vmdk.SPARSE_MAGIC),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("cowd", 0, b"COWD"),
    ("vhd", 0, hyperv.VHD_MAGIC),
    ("vhdx", 0, hyperv.VHDX_MAGIC),
    ("vdi", others.VDI_PLACE, others.VDI_MAGIC),
    ("qed", 0, others.QED_MAGIC),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("bochs", 0, b"Bochs Virtual HD Image\0"),
    ("cloop", 0, b"#!/bin/sh\n#V2.0 Format"),
    ("luks", 0, b"LUKS\xba\xbe"),
    ("gzip", 0, b"\x1f\x8b"),
    ("bzip2", 0, b"BZh"),
    ("xz", 0, b"\xfd7zXZ\x00"),
    ("zstd", 0, b"\x28\xb5\x2f\xfd"),
    ("zip", 0, b"PK\x03\x04"),
    ("7z", 0, b"7z\xbc\xaf\x27\x1c"),
    ("tar", TAR_PLACE, TAR_MAGIC),
    ("ovf", 0, b"<?xml"),
    ("ovf", 0, b"\xef\xbb\xbf<?xml"),
    ("ovf", 0, b"<Envelope"),
    ("iso", ISO_PLACE, ISO_MAGIC),
)


def detect_format(header: bytes) -> str | None:
    """`qcow2`, `raw` (it has a boot sector), the name of another format, or None. `header`: the file's beginning."""
    for name, place, magic in _MAGIC:
        if header[place : place + len(magic)] == magic:
            return name
    if _is_vmdk_descriptor(header):
        return "vmdk"
    return "raw" if header[510:512] == _BOOT_SECTOR else None


def detect(content: Content) -> str | None:
    """As `detect_format`, of a whole file: a fixed VHD is known by its end."""
    found = detect_format(content.read(0, HEADER_BYTES))
    if found in (None, "raw") and hyperv.is_fixed_vhd(content):
        return "vhd"
    return found


def _is_vmdk_descriptor(header: bytes) -> bool:
    """As QEMU probes one: its first line that is neither empty nor a comment begins with a version."""
    lines = (line.strip() for line in header[:4096].splitlines())
    return next((line for line in lines if line and not line.startswith(b"#")), b"").startswith(b"version=")
