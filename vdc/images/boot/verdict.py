"""Firmware and architecture of a disk. Pure.

| the disk has | booted by |
|---|---|
| MBR boot code and partitions, no EFI system partition | BIOS |
| an EFI system partition, or is one, and nothing that a BIOS starts | UEFI |
| both | BIOS, unless asked otherwise |
| neither | unknown; BIOS tries |
"""

from __future__ import annotations

from dataclasses import dataclass

from vdc.images.boot.cdrom import read_catalogue
from vdc.images.boot.fat import list_folder
from vdc.images.boot.partitions import Layout, read_layout
from vdc.images.content import Content, Window
from vdc.model.errors import InvalidError
from vdc.model.manifest import Firmware

_LOADERS = {
    "BOOTX64.EFI": "x86_64", "BOOTAA64.EFI": "aarch64", "BOOTIA32.EFI": "i386", "BOOTARM.EFI": "arm",
    "BOOTRISCV64.EFI": "riscv64", "BOOTRIS.EFI": "riscv64", "BOOTLOON.EFI": "loongarch64",
}  # fmt: skip
_SHORT = {"BOOTRI~1.EFI": "riscv64", "BOOTLO~1.EFI": "loongarch64"}
_OURS = "x86_64"
_MOST_PLACES = 16  # that are looked into; a table has room for hundreds


@dataclass(frozen=True, slots=True)
class BootFacts:
    """Who starts it as a disk. `architectures`: of the loaders in EFI/BOOT; None where there is no such folder."""

    boots_bios: bool = False
    boots_uefi: bool = False
    architectures: frozenset[str] | None = None

    @property
    def firmware(self) -> Firmware | None:
        """What boots it where nobody says otherwise; None where nothing is known."""
        if self.boots_bios:
            return Firmware.BIOS
        return Firmware.UEFI if self.boots_uefi else None


def inspect_boot(disk: Content, *, is_iso: bool = False) -> BootFacts:
    """Of a whole disk, as its guest sees it. Raises what `disk.read` raises."""
    layout = read_layout(disk)
    if list_folder(disk, "EFI", "BOOT") is not None:  # no table: all of it is such a partition
        layout = Layout(efi_system=((0, disk.size_bytes),))
    places = list(layout.efi_system)
    if is_iso:
        places += [(place, disk.size_bytes - place) for place in read_catalogue(disk).efi_images]
    found: set[str] | None = None
    for place, size_bytes in places[:_MOST_PLACES]:
        names = list_folder(Window(disk, place, size_bytes), "EFI", "BOOT")
        if names is not None:
            found = (found or set()) | {arch for name, arch in (_LOADERS | _SHORT).items() if name in names}
    return BootFacts(
        boots_bios=layout.boots_bios,
        boots_uefi=bool(layout.efi_system),
        architectures=None if found is None else frozenset(found),
    )


def check_architecture(facts: BootFacts) -> None:
    """InvalidError (`image-arch-unsupported`) for a disk that says that it is for other machines."""
    found = facts.architectures
    if found and _OURS not in found and not facts.boots_bios:
        raise InvalidError(
            f"the image is for {' and '.join(sorted(found))}; guests are {_OURS}",
            hint=f"get the one for {_OURS} (also called amd64)",
            code="image-arch-unsupported",
        )
