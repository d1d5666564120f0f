"""From an Endophyte to a libvirt domain. Pure.

The domain is the computer that the guest has had: the same devices at the same PCI addresses, so that it keeps its
names of disks and NICs, and nothing that libvirt would add of itself. Its disks are named, not brought.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vdc.interchange.devices import FIRST_NIC_SLOT, GUEST_AGENT
from vdc.interchange.disks import ALIAS_PREFIX
from vdc.interchange.incoming import DESCRIPTION, IMPORTED_FROM, TITLE
from vdc.interchange.losses import Loss, Verdict
from vdc.model.endophyte import Nic
from vdc.model.errors import RefusedError
from vdc.model.image import Image
from vdc.model.manifest import ComputerType, Display, EndophyteManifest, Firmware
from vdc.model.units import KIB

# The places of hostagent/drivers/qemu/argv.py.
_FIRST_DISK_SLOT, _DISPLAY_SLOT, _INPUT_SLOT, _PORTS_SLOT = 0x08, 0x04, 0x05, 0x06
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Export:
    """A domain's XML, the files that it expects, and what it does not say."""

    xml: str
    disks: tuple[str, ...]
    losses: tuple[Loss, ...]


def export_domain(
    manifest: EndophyteManifest,
    *,
    uid: str,
    nics: Sequence[Nic],
    firmware: Firmware,
    image: Image,
    folder: str,
    domain_type: str = "kvm",
) -> Export:
    """Write it. `folder` is where the disks will be. RefusedError (`export-unsupported`) for a container."""
    spec = manifest.spec
    if spec.virtual_computer.type is ComputerType.CONTAINER:
        raise RefusedError(
            f"{manifest.metadata.name} is a container: its image runs as it is with podman or docker",
            code="export-unsupported",
        )
    name = manifest.metadata.name
    root = ET.Element("domain", {"type": domain_type})
    _text(root, "name", name)
    _text(root, "uuid", uid)
    for tag, annotation in (("title", TITLE), ("description", DESCRIPTION)):
        if text := _NO_XML.sub(" ", manifest.metadata.annotations.get(annotation, "")).strip():
            _text(root, tag, text.replace("\n", " ") if tag == "title" else text)
    _text(root, "memory", str(spec.resources.memory // KIB), unit="KiB")
    _text(root, "vcpu", str(spec.resources.cpus))
    kernel = {
        part: f"{folder}/{name}.{part}" for part in ("kernel", "initrd") if getattr(image, part) is not None
    }
    _system(root, firmware, {**kernel, "cmdline": image.cmdline} if kernel else {})
    ET.SubElement(root, "cpu", {"mode": "host-model"})
    ET.SubElement(root, "clock", {"offset": "utc"})
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _text(root, event, action)
    disks = {disk: f"{folder}/{name}-{disk}.qcow2" for disk in _disk_names(manifest, image)}
    _devices(ET.SubElement(root, "devices"), manifest, disks, nics, has_agent=not kernel)
    ET.indent(root)
    return Export(
        xml=ET.tostring(root, encoding="unicode") + "\n",
        disks=(*disks.values(), *kernel.values()),
        losses=_losses(manifest, disks, firmware),
    )


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text


def _system(root: ET.Element, firmware: Firmware, kernel: Mapping[str, str]) -> None:
    system = ET.SubElement(root, "os", {} if firmware is Firmware.BIOS else {"firmware": "efi"})
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if firmware is not Firmware.BIOS:
        enabled = "yes" if firmware is Firmware.UEFI_SECURE else "no"
        wanted = ET.SubElement(system, "firmware")
        for feature in ("secure-boot", "enrolled-keys"):
            ET.SubElement(wanted, "feature", {"enabled": enabled, "name": feature})
    if firmware is Firmware.UEFI_SECURE:
        ET.SubElement(system, "loader", {"secure": "yes"})
        ET.SubElement(features, "smm", {"state": "on"})
    for part, text in kernel.items():
        _text(system, part, text)


def _disk_names(manifest: EndophyteManifest, image: Image) -> tuple[str, ...]:
    """The image's own disk first, which the manifest need not name."""
    names = tuple(disk.name for disk in manifest.spec.disks)
    return names or (("vda",) if image.disk is not None else ())


def _devices(
    devices: ET.Element,
    manifest: EndophyteManifest,
    disks: Mapping[str, str],
    nics: Sequence[Nic],
    *,
    has_agent: bool,
) -> None:
    for place, (name, path) in enumerate(disks.items()):
        disk = ET.SubElement(devices, "disk", {"type": "file", "device": "disk"})
        ET.SubElement(disk, "driver", {"name": "qemu", "type": "qcow2"})
        ET.SubElement(disk, "source", {"file": path})
        ET.SubElement(disk, "target", {"dev": f"vd{chr(ord('a') + place)}", "bus": "virtio"})
        if place == 0:
            ET.SubElement(disk, "boot", {"order": "1"})
        ET.SubElement(disk, "alias", {"name": ALIAS_PREFIX + name})
        _address(disk, _FIRST_DISK_SLOT + place)
    ET.SubElement(devices, "controller", {"type": "usb", "model": "none"})
    for place, nic in enumerate(nics):
        interface = ET.SubElement(devices, "interface", {"type": "network"})
        ET.SubElement(interface, "mac", {"address": nic.mac})
        ET.SubElement(interface, "source", {"network": nic.network})
        ET.SubElement(interface, "model", {"type": "virtio"})
        _address(interface, FIRST_NIC_SLOT + place)
    serial = ET.SubElement(devices, "serial", {"type": "pty"})
    ET.SubElement(serial, "target", {"port": "0"})
    if has_agent:
        controller = ET.SubElement(devices, "controller", {"type": "virtio-serial", "index": "0"})
        _address(controller, _PORTS_SLOT)
        channel = ET.SubElement(devices, "channel", {"type": "unix"})
        ET.SubElement(channel, "target", {"type": "virtio", "name": GUEST_AGENT})
    if manifest.spec.tpm:
        tpm = ET.SubElement(devices, "tpm", {"model": "tpm-crb"})
        ET.SubElement(tpm, "backend", {"type": "emulator", "version": "2.0"})
    if manifest.spec.display is not Display.NONE:
        _screen(devices)
    ET.SubElement(devices, "memballoon", {"model": "none"})
    ET.SubElement(devices, "panic", {"model": "isa"})


def _screen(devices: ET.Element) -> None:
    tablet = ET.SubElement(devices, "input", {"type": "tablet", "bus": "virtio"})
    _address(tablet, _INPUT_SLOT)
    ET.SubElement(devices, "graphics", {"type": "vnc", "autoport": "yes", "listen": "127.0.0.1"})
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", {"type": "virtio"})
    _address(video, _DISPLAY_SLOT)


def _address(device: ET.Element, slot: int) -> None:
    place = {"domain": "0x0000", "bus": "0x00", "slot": f"{slot:#04x}", "function": "0x0"}
    ET.SubElement(device, "address", {"type": "pci", **place})


def _losses(manifest: EndophyteManifest, disks: Mapping[str, str], firmware: Firmware) -> tuple[Loss, ...]:
    """What a domain cannot say, and what is not in an XML file."""
    spec = manifest.spec
    said = (
        ("spec.virtualComputer.memorySync", spec.wants_protection, "a domain has one copy, on one host"),
        ("spec.placement", bool(spec.placement.node_selector), "a domain is where it is defined"),
        ("spec.ports", bool(spec.ports), "ports are published by the host's own means"),
        ("spec.cloudInit", spec.cloud_init is not None, "cloud-init has done its work; its seed is not brought"),
        ("spec.tpm", spec.tpm, "the TPM begins empty: keys that were sealed in it are not kept"),
        ("spec.firmware", firmware is not Firmware.BIOS, "the firmware's variables begin fresh, boot entries too"),
        ("metadata.labels", bool(manifest.metadata.labels), "libvirt has no labels"),
        ("metadata.annotations", bool(set(manifest.metadata.annotations) - {TITLE, DESCRIPTION, IMPORTED_FROM}),
         "libvirt has a title and a description alone"),
    )  # fmt: skip
    losses = [Loss(Verdict.DROPPED, path, text) for path, is_so, text in said if is_so]
    for place, port in enumerate(spec.networks):
        if port.address is not None or port.allowed_addresses:
            losses.append(
                Loss(Verdict.DROPPED, f"spec.networks[{place}]", "its address is given by libvirt's network")
            )
    losses += [
        Loss(Verdict.LEFT_TO_DO, f"disk {name}", f"bring its content to {path}")
        for name, path in disks.items()
    ]
    return tuple(losses)
