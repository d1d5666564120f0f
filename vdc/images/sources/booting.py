"""Which firmware an image gets, and what its user should know of that."""

from __future__ import annotations

from vdc.images.boot import BootFacts, check_architecture, inspect_boot
from vdc.images.content import Content
from vdc.images.formats.qcow2_content import UnreadableError
from vdc.model.errors import InvalidError
from vdc.model.manifest import Firmware


def choose_firmware(
    disk: Content, wanted: Firmware | None, described: Firmware | None = None, *, is_iso: bool = False
) -> tuple[Firmware | None, tuple[str, ...]]:
    """The firmware (None: nothing says it) and notes. `described`: what an appliance says.

    Raises InvalidError (`image-arch-unsupported`; `image-format-unsupported` for a CD that is no disk as well).
    """
    try:
        facts = inspect_boot(disk, is_iso=is_iso)
    except UnreadableError:
        return wanted or described, ("what boots it was not looked for: it is compressed in an unusual way",)
    check_architecture(facts)
    if is_iso and facts.firmware is None:
        raise InvalidError(
            "this CD image boots from a CD drive alone, and guests have none",
            hint="hybrid images boot as disks (isohybrid makes one); or install it elsewhere and import the disk",
            code="image-format-unsupported",
        )
    firmware = wanted or described or facts.firmware
    return firmware, _notes(facts, firmware)


def _notes(facts: BootFacts, firmware: Firmware | None) -> tuple[str, ...]:
    if firmware is None:
        return ("nothing on it says what boots it; it will be started by BIOS",)
    if firmware is Firmware.BIOS:
        is_strange = facts.boots_uefi and not facts.boots_bios
        return ("as far as can be seen it boots by UEFI alone",) if is_strange else ()
    if facts.boots_bios and not facts.boots_uefi:
        return ("as far as can be seen it boots by BIOS alone",)
    if facts.boots_uefi and not facts.architectures:
        return (
            "it has no EFI/BOOT/BOOTX64.EFI: firmware that does not know it yet may find nothing to start",
        )
    return ()
