"""The disks of a libvirt domain: which files they are, in which format. Pure.

The format is what the XML says. It is compared with the file's header later, and never taken from there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass

from vdc.interchange.element import Element
from vdc.interchange.losses import Ledger
from vdc.model.errors import InvalidError, RefusedError
from vdc.model.manifest import MAX_DISKS

ALIAS_PREFIX = "ua-vdc-"  # libvirt keeps aliases of users that begin with `ua-`
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_FORMAT = re.compile(r"[a-z0-9_-]{1,16}")
_SEED_WORDS = ("cidata", "cloud-init", "cloudinit", "seed")
_MAX_BACKING = 16
_MAX_ORDER = 2**31 - 1


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A file or block device in a stated format; a `volume` of a pool is resolved by libvirt."""

    path: str
    format: str
    volume: tuple[str, str] | None = None  # pool and volume


@dataclass(frozen=True, slots=True)
class DomainDisk:
    """One disk. `backing`: what the XML itself says lies below its file, from the top."""

    element: Element
    name: str
    file: DiskFile
    backing: tuple[DiskFile, ...]
    boot_order: int | None


def read_disks(elements: tuple[Element, ...], ledger: Ledger) -> tuple[DomainDisk, ...]:
    """Those with content. Raises RefusedError (`disk-unsupported`) for one that cannot be read as a file."""
    found: list[DomainDisk] = []
    for element in elements:
        kind = element.get("device", "disk")
        if kind in ("cdrom", "floppy"):
            _removable(element, kind, ledger)
        elif element.child("source") is None:
            ledger.drop(element, "it has no content")
        else:
            found.append(_read_disk(element, len(found), ledger))
    if len(found) > MAX_DISKS:
        raise RefusedError(
            f"it has {len(found)} disks; at most {MAX_DISKS} are possible",
            hint="leave some out of a copy of its XML, and import that: --xml FILE",
            code="disk-unsupported",
        )
    return _named(found)


def _removable(element: Element, kind: str, ledger: Ledger) -> None:
    source = element.child("source")
    if source is None:
        ledger.drop(element, f"there is no {kind} drive")
        return
    place = source.get("file") or source.get("dev") or "its medium"
    is_seed = any(word in posixpath.basename(place).lower() for word in _SEED_WORDS)
    advice = "; what cloud-init was told there can be written to the manifest's cloudInit" if is_seed else ""
    ledger.drop(element, f"there is no {kind} drive for {place[:120]}{advice}")


def _read_disk(element: Element, index: int, ledger: Ledger) -> DomainDisk:
    source = element.child("source")
    assert source is not None
    if element.child("encryption") is not None or source.child("encryption") is not None:
        raise _refused(element, "it is encrypted", "decrypt it: qemu-img convert")
    if element.child("mirror") is not None:
        raise _refused(element, "it is being copied", "end that first: virsh blockjob")
    if element.get("device") == "lun":
        ledger.change(element, "SCSI commands do not reach the device behind it", "@device")
    _settings(element, ledger)
    return DomainDisk(
        element=element,
        name=_name_of(element, index),
        file=DiskFile(*_place(element, element.get("type", "file"), source), volume=_volume(element, source)),
        backing=_backing(element),
        boot_order=_order(element),
    )


def _settings(element: Element, ledger: Ledger) -> None:
    bus = element.attribute_of("target", "bus", "virtio")
    if bus != "virtio":
        ledger.change(element, f"{bus[:20]} becomes virtio: the guest needs its driver, and names the disk anew",
                      "/target@bus")  # fmt: skip
    if (driver := element.child("driver")) is not None:
        ledger.attributes(driver, ("name", "type"), "how the host reads and writes is not taken over")
    ledger.look(element, {
        **dict.fromkeys(("driver", "source", "target", "boot", "backingStore", "alias", "seclabel", "privateData")),
        "address": None,  # said once for all devices
        "auth": None,
        "readonly": "the guest may write to it",
        "shareable": "it is this VM's alone",
        "transient": "what is written to it stays",
        "serial": "the guest sees no serial number",
        "wwn": "the guest sees no WWN",
        "vendor": "the guest sees no vendor",
        "product": "the guest sees no product",
        "iotune": "its speed is not limited",
        "throttlefilters": "its speed is not limited",
        "geometry": "the guest sees its usual geometry",
        "blockio": "its sectors have 512 bytes for the guest",
    })  # fmt: skip


def _place(element: Element, kind: str, source: Element) -> tuple[str, str]:
    """Path and format of a disk's or a backing store's source."""
    if source.child("slices") is not None:
        raise _refused(element, "it is a part of a file", "copy it into a file of its own")
    stated = element.attribute_of("driver", "type") or element.attribute_of("format", "type") or "raw"
    if not _FORMAT.fullmatch(stated):
        raise InvalidError(f"{element.path}: {stated[:40]!r} is no format", code="domain-invalid")
    if kind == "volume":
        return "", stated
    path = {"file": source.get("file"), "block": source.get("dev")}.get(kind)
    if path is None:
        where = source.get("protocol") or source.get("dir") or kind
        raise _refused(element, f"its content is no file here ({kind}: {where[:60]})",
                       "copy it into a file (qemu-img convert), and import a copy of the XML: --xml FILE")  # fmt: skip
    if not posixpath.isabs(path) or "\0" in path or len(path) > 4096:
        raise InvalidError(f"{element.path}: {path[:120]!r} is no absolute path", code="domain-invalid")
    return path, stated


def _volume(element: Element, source: Element) -> tuple[str, str] | None:
    return (source.get("pool"), source.get("volume")) if element.get("type") == "volume" else None


def _backing(element: Element) -> tuple[DiskFile, ...]:
    """What `backingStore` names; libvirt writes an empty one where there is nothing below."""
    found: list[DiskFile] = []
    below = element.child("backingStore")
    while below is not None and (source := below.child("source")) is not None:
        if len(found) == _MAX_BACKING:
            raise _refused(
                element, f"more than {_MAX_BACKING} files lie below it", "flatten it: qemu-img convert"
            )
        found.append(DiskFile(*_place(below, below.get("type", "file"), source)))
        below = below.child("backingStore")
    return tuple(found)


def _order(element: Element) -> int | None:
    text = element.attribute_of("boot", "order")
    return min(int(text), _MAX_ORDER) if text.isascii() and text.isdecimal() and len(text) < 12 else None


def _name_of(element: Element, index: int) -> str:
    """Ours, where `vdc export` wrote it, else the guest's name of it (vda)."""
    alias = element.attribute_of("alias", "name")
    for name in (alias.removeprefix(ALIAS_PREFIX) if alias.startswith(ALIAS_PREFIX) else "",
                 element.attribute_of("target", "dev")):  # fmt: skip
        if _NAME.fullmatch(name):
            return name
    return f"disk{index}"


def _named(disks: list[DomainDisk]) -> tuple[DomainDisk, ...]:
    names = [disk.name for disk in disks]
    if len(set(names)) != len(names):
        raise InvalidError("two disks of the domain have the same name", code="domain-invalid")
    return tuple(disks)


def resolved(disk: DomainDisk, volumes: Mapping[tuple[str, str], str]) -> DiskFile:
    """The disk's file; RefusedError where it is a volume that nobody has resolved."""
    if disk.file.volume is None:
        return disk.file
    path = volumes.get(disk.file.volume)
    if path is None:
        pool, volume = disk.file.volume
        raise _refused(disk.element, f"volume {volume[:60]!r} of pool {pool[:60]!r} was not found as a file",
                       f"virsh vol-path --pool {pool[:60]} {volume[:60]}")  # fmt: skip
    return DiskFile(path, disk.file.format)


def _refused(element: Element, reason: str, hint: str) -> RefusedError:
    return RefusedError(f"{element.path} cannot be imported: {reason}", hint=hint, code="disk-unsupported")
