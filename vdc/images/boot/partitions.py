"""Partition tables: MBR and GPT. Pure.

Formats: UEFI specification, chapter 5. Only what firmware looks at is read.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from vdc.images.content import Content

SECTOR = 512
_CODE_BYTES = 440
_SIGNATURE = b"\x55\xaa"
_PROTECTIVE, _EFI_SYSTEM_MBR, _ACTIVE = 0xEE, 0xEF, 0x80
_EFI_SYSTEM = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le
_BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649").bytes_le
_LEGACY_BOOTABLE = 1 << 2
_MAX_ENTRIES, _MIN_ENTRY_BYTES, _MAX_ENTRY_BYTES = 256, 128, 4096


@dataclass(frozen=True, slots=True)
class Layout:
    """What firmware finds on a disk. `efi_system`: place and size in bytes of each EFI system partition."""

    has_table: bool = False
    boots_bios: bool = False
    efi_system: tuple[tuple[int, int], ...] = ()


def read_layout(disk: Content) -> Layout:
    """Of a whole disk. An MBR boots by its code; with a GPT only where something marks what that code starts."""
    sector = disk.read(0, SECTOR)
    if sector[510:512] != _SIGNATURE:
        return Layout()
    has_code = any(sector[:_CODE_BYTES])
    entries = [struct.unpack_from("<B3xB3xII", sector, 446 + 16 * index) for index in range(4)]
    entries = [entry for entry in entries if (entry[0] or entry[1]) and entry[3]]
    if any(entry[0] & 0x7F for entry in entries):
        return Layout()  # a file system's own boot sector
    if any(entry[1] == _PROTECTIVE for entry in entries):
        gpt = _read_gpt(disk)
        if gpt is not None:
            is_marked = gpt.boots_bios or any(entry[0] & _ACTIVE for entry in entries)
            return Layout(True, has_code and is_marked, gpt.efi_system)
    efi = tuple((entry[2] * SECTOR, entry[3] * SECTOR) for entry in entries if entry[1] == _EFI_SYSTEM_MBR)
    return Layout(bool(entries), has_code and bool(entries), efi)


def _read_gpt(disk: Content) -> Layout | None:
    """`boots_bios`: it has a partition for BIOS boot code, or one marked as bootable by it."""
    header = disk.read(SECTOR, 92)
    if len(header) < 92 or not header.startswith(b"EFI PART"):
        return None
    place, count, size = struct.unpack_from("<QII", header, 72)
    if not _MIN_ENTRY_BYTES <= size <= _MAX_ENTRY_BYTES:
        return None
    efi, is_marked = [], False
    table = disk.read(place * SECTOR, min(count, _MAX_ENTRIES) * size)
    for at in range(0, len(table) - _MIN_ENTRY_BYTES + 1, size):
        kind, first, last, flags = table[at : at + 16], *struct.unpack_from("<QQQ", table, at + 32)
        if kind == _EFI_SYSTEM and first <= last:
            efi.append((first * SECTOR, (last - first + 1) * SECTOR))
        is_marked = is_marked or kind == _BIOS_BOOT or bool(any(kind) and flags & _LEGACY_BOOTABLE)
    return Layout(True, is_marked, tuple(efi))
