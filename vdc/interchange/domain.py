"""A libvirt domain as this project understands it, read from its XML. Pure.

Libvirt's own rules hold where the XML leaves something out (formatdomain.html): memory is in KiB, a disk without a
driver type is raw. A format is never told by the content.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdc.interchange.computer import Computer, read_computer
from vdc.interchange.devices import Devices, DomainNic, read_devices
from vdc.interchange.disks import DomainDisk
from vdc.interchange.element import Element, parse_xml
from vdc.interchange.losses import Ledger, Loss
from vdc.model.errors import InvalidError, RefusedError

_TYPES = ("kvm", "qemu")


@dataclass(frozen=True, slots=True)
class Domain:
    """What is kept of it, and what is not."""

    computer: Computer
    disks: tuple[DomainDisk, ...]  # the one that it boots from first
    nics: tuple[DomainNic, ...]
    tpm: bool
    has_display: bool
    losses: tuple[Loss, ...]


def read_domain(text: bytes) -> Domain:
    """Read a domain's XML.

    Raises InvalidError (`xml-invalid`, `domain-invalid`) for what is none, RefusedError for one that cannot be
    taken: `domain-running`, `domain-unsupported`, `disk-unsupported`.
    """
    root = parse_xml(text)
    if root.tag != "domain":
        raise InvalidError(
            f"the XML describes a {root.tag[:60]!r}, no domain",
            hint="virsh dumpxml --inactive NAME",
            code="domain-invalid",
        )
    if "id" in root.attributes:
        raise RefusedError(
            "the XML is that of a running domain",
            hint="shut it down, then write the XML anew: virsh dumpxml --inactive NAME",
            code="domain-running",
        )
    if root.get("type") not in _TYPES:
        raise RefusedError(
            f"a domain of type {root.get('type')[:40]!r} is no VM of QEMU",
            hint="only types kvm and qemu are imported",
            code="domain-unsupported",
        )
    ledger = Ledger()
    devices = read_devices(root.child("devices") or _nothing("devices"), ledger)
    computer = read_computer(root, ledger, has_disks=bool(devices.disks))
    disks = _boot_order(devices, ledger)
    return Domain(computer, disks, devices.nics, devices.tpm, devices.has_display, ledger.found)


def _boot_order(devices: Devices, ledger: Ledger) -> tuple[DomainDisk, ...]:
    """The disk with the lowest boot order comes first: an Endophyte boots its first disk."""
    disks = sorted(devices.disks, key=lambda disk: disk.boot_order or 2**31)
    if tuple(disks) != devices.disks:
        ledger.change(disks[0].element, "it is what the domain boots, so it becomes the first disk", "/boot")
    return tuple(disks)


def _nothing(tag: str) -> Element:
    return Element(tag, tag, 0, {}, (), "")
