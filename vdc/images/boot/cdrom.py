"""The boot catalogue of a CD image (El Torito over ISO 9660). Pure.

Format: "El Torito" Bootable CD-ROM Format Specification 1.0, and platform 0xEF of the UEFI specification.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vdc.images.content import Content

BLOCK = 2048
_FIRST_DESCRIPTOR, _MAX_DESCRIPTORS = 16, 64
_BOOT_RECORD = b"\0CD001\x01EL TORITO SPECIFICATION"
_END = 0xFF
_X86, _EFI = 0, 0xEF
_BOOTABLE = 0x88
_MAX_ENTRIES = 64


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a CD drive's firmware would start. `efi_images`: where such images begin, in bytes."""

    boots_bios: bool = False
    efi_images: tuple[int, ...] = ()


def read_catalogue(disk: Content) -> Catalogue:
    """Of an ISO 9660 image; empty where it has none."""
    for index in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + _MAX_DESCRIPTORS):
        descriptor = disk.read(index * BLOCK, 80)
        if len(descriptor) < 80 or descriptor[1:6] != b"CD001" or descriptor[0] == _END:
            break
        if descriptor.startswith(_BOOT_RECORD):
            (place,) = struct.unpack_from("<I", descriptor, 71)
            return _read(disk.read(place * BLOCK, BLOCK))
    return Catalogue()


def _read(table: bytes) -> Catalogue:
    if len(table) < 64 or table[0] != 1 or table[30:32] != b"\x55\xaa":
        return Catalogue()
    platform, boots_bios, efi = table[1], False, []
    for at in range(32, min(len(table), 32 * _MAX_ENTRIES) - 31, 32):
        entry = table[at : at + 32]
        if entry[0] in (0x90, 0x91):  # the header of a section: for which platform
            platform = entry[1]
        elif entry[0] == _BOOTABLE:
            (block,) = struct.unpack_from("<I", entry, 8)
            boots_bios = boots_bios or platform == _X86
            if platform == _EFI:
                efi.append(block * BLOCK)
    return Catalogue(boots_bios, tuple(efi))
