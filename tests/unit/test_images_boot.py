"""What boots a disk, from its first sectors; and the guest's bytes in a qcow2 file."""

from __future__ import annotations

import pytest

from tests.fuzz.disks import BIOS_BOOT, EFI_SYSTEM, LINUX, fat, gpt, iso, mbr, small_qcow2
from vdc.images.boot import BootFacts, check_architecture, inspect_boot
from vdc.images.boot.fat import list_folder
from vdc.images.content import BytesContent
from vdc.images.formats.qcow2_content import Qcow2Content, UnreadableError
from vdc.images.sources.booting import choose_firmware
from vdc.model.errors import InvalidError
from vdc.model.manifest import Firmware

BIOS, UEFI, SECURE = Firmware.BIOS, Firmware.UEFI, Firmware.UEFI_SECURE
X86, ARM = frozenset({"x86_64"}), frozenset({"aarch64"})
CODE = b"\xeb\x63\x90"
EFI_ONLY = gpt((EFI_SYSTEM, 64, fat(), 0))
EFI_ARM = gpt((EFI_SYSTEM, 64, fat(("BOOTAA64.EFI",)), 0))


def look(data: bytes, *, is_iso: bool = False) -> BootFacts:
    return inspect_boot(BytesContent(data, 1 << 28), is_iso=is_iso)


@pytest.mark.parametrize(
    ("disk", "firmware", "architectures"),
    [
        (EFI_ONLY, UEFI, X86),
        (gpt((EFI_SYSTEM, 64, fat(), 0), code=CODE), UEFI, X86),  # Windows leaves code that starts nothing
        (gpt((BIOS_BOOT, 40, b"", 0), (EFI_SYSTEM, 64, fat(), 0), code=CODE), BIOS, X86),  # Debian's cloud image
        (gpt((BIOS_BOOT, 40, b"", 0), (EFI_SYSTEM, 64, fat(), 0)), UEFI, X86),
        (gpt((LINUX, 40, b"", 4), code=CODE), BIOS, None),
        (gpt((LINUX, 40, b"", 0), code=CODE, flags=0x80), BIOS, None),
        (gpt((LINUX, 40, b"", 0), code=CODE), None, None),
        (gpt((EFI_SYSTEM, 64, bytes(512), 0)), UEFI, None),
        (gpt((EFI_SYSTEM, 64, fat(("GRUBX64.EFI",)), 0)), UEFI, frozenset()),
        (EFI_ARM, UEFI, ARM),
        (mbr((0x80, 0x83, 2048, 9999)), BIOS, None),
        (mbr((0, 0x07, 2048, 9999)), BIOS, None),
        (mbr((0x80, 0x83, 2048, 9999), code=b""), None, None),
        (mbr((0, 0xEF, 1, 9999), code=b"") + fat(bits=16), UEFI, X86),
        (mbr((0, 0xEF, 1, 99999)) + fat(bits=32), BIOS, X86),
        (fat(bits=16), UEFI, X86),
        (mbr(), None, None),
        (mbr((0x72, 0x65, 0x20736B, 0x74726573)), None, None),  # words of a file system's own boot sector
        (mbr((0, 0xEE, 1, 99)), BIOS, None),  # no GPT behind it
        (bytes(4096), None, None),
    ],
)  # fmt: skip
def test_the_firmware_is_told_by_the_disk(
    disk: bytes, firmware: Firmware | None, architectures: frozenset[str] | None
) -> None:
    facts = look(disk)
    assert (facts.firmware, facts.architectures) == (firmware, architectures)


def test_cd_images_are_known_by_their_catalogue_and_boot_as_disks_where_they_are_hybrid() -> None:
    plain = look(iso(efi=fat()), is_iso=True)
    assert (plain.firmware, plain.architectures) == (None, X86)
    hybrid = look(iso(first=mbr((0x80, 0, 0, 99), (0, 0xEF, 80, 40)), efi=fat()), is_iso=True)
    assert (hybrid.boots_bios, hybrid.boots_uefi, hybrid.architectures) == (True, True, X86)
    assert look(iso(platforms=(0,)), is_iso=True) == BootFacts()
    with pytest.raises(InvalidError, match="CD drive alone") as caught:
        choose_firmware(BytesContent(iso(efi=fat())), None, is_iso=True)
    assert caught.value.code == "image-format-unsupported"


@pytest.mark.parametrize("bits", [12, 16, 32])
def test_folders_of_every_fat_are_listed(bits: int) -> None:
    volume = BytesContent(fat(("BOOTX64.EFI", "MM.EFI"), bits=bits), 1 << 28)
    assert list_folder(volume, "EFI", "BOOT") == ("BOOTX64.EFI", "MM.EFI")
    assert list_folder(volume) == ("EFI",)
    assert list_folder(volume, "EFI", "NONE") is None
    assert list_folder(BytesContent(bytes(512))) is None


def test_a_folder_that_runs_in_circles_ends() -> None:
    volume = bytearray(fat(bits=16))
    table = 512
    volume[table + 8 : table + 10] = (4).to_bytes(2, "little")  # the folder's cluster is followed by itself
    names = list_folder(BytesContent(bytes(volume), 1 << 28), "EFI", "BOOT")
    assert names is not None and set(names) == {"BOOTX64.EFI"} and len(names) <= 64


def test_images_for_other_machines_are_refused() -> None:
    with pytest.raises(InvalidError, match="for aarch64; guests are x86_64") as caught:
        check_architecture(look(EFI_ARM))
    assert caught.value.code == "image-arch-unsupported"
    check_architecture(look(EFI_ONLY))
    check_architecture(look(gpt((EFI_SYSTEM, 64, fat(("BOOTAA64.EFI", "BOOTX64.EFI")), 0))))
    check_architecture(
        look(gpt((BIOS_BOOT, 40, b"", 0), (EFI_SYSTEM, 64, fat(("BOOTAA64.EFI",)), 0), code=CODE))
    )


@pytest.mark.parametrize(
    ("disk", "wanted", "described", "firmware", "note"),
    [
        (EFI_ONLY, None, None, UEFI, ""),
        (EFI_ONLY, SECURE, None, SECURE, ""),
        (EFI_ONLY, BIOS, None, BIOS, "by UEFI alone"),
        (mbr((0x80, 0x83, 1, 9)), None, None, BIOS, ""),
        (mbr((0x80, 0x83, 1, 9)), UEFI, None, UEFI, "by BIOS alone"),
        (mbr((0x80, 0x83, 1, 9)), None, UEFI, UEFI, "by BIOS alone"),
        (mbr((0x80, 0x83, 1, 9)), BIOS, UEFI, BIOS, ""),
        (gpt((EFI_SYSTEM, 64, fat(("X.EFI",)), 0)), None, None, UEFI, "BOOTX64.EFI"),
        (bytes(4096), None, None, None, "nothing on it"),
        (bytes(4096), UEFI, None, UEFI, ""),
    ],
)
def test_what_is_asked_for_counts_and_what_looks_strange_is_said(
    disk: bytes, wanted: Firmware | None, described: Firmware | None, firmware: Firmware | None, note: str
) -> None:
    chosen, notes = choose_firmware(BytesContent(disk, 1 << 28), wanted, described)
    assert chosen is firmware
    assert [note in text for text in notes] == ([True] if note else [])


# ---- the guest's bytes in a qcow2 file


def test_clusters_are_found_unpacked_and_zero_where_there_are_none() -> None:
    text = bytes(range(256)) * 2
    for packed in (False, True):
        disk = Qcow2Content(BytesContent(small_qcow2({1: text, 3: b"end"}, packed=packed)))
        assert disk.size_bytes == 1 << 20
        assert disk.read(0, 2048) == bytes(512) + text + bytes(512) + b"end".ljust(512, b"\0")
        assert disk.read(1000, 30) == text[488:] + bytes(6)
        assert disk.read((1 << 20) - 5, 100) == bytes(5) and disk.read(1 << 20, 5) == b""


def test_damaged_ones_are_unreadable_or_zero() -> None:
    whole = small_qcow2({0: b"x" * 512}, packed=True)
    with pytest.raises(UnreadableError):
        Qcow2Content(BytesContent(whole[:4096] + b"\xff" * 600)).read(0, 10)
    with pytest.raises(UnreadableError):
        Qcow2Content(BytesContent(whole[:20] + b"\xff" * 4 + whole[24:]))
    assert Qcow2Content(BytesContent(whole[:2000])).read(0, 10) == bytes(10)
    assert choose_firmware(Qcow2Content(BytesContent(whole[:4096] + b"\xff" * 600)), None)[0] is None
