"""An appliance's description (OVF): which files are its disks, and what machine it wants. Pure.

XML without document types, so without entities; bounded in size and depth. Format: DMTF DSP0243.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from xml.parsers import expat

from vdc.images.formats.problems import unsafe
from vdc.model.manifest import Firmware

MAX_BYTES = 1024**2
_MAX_DEPTH, _MAX_TEXT, _MAX_ELEMENTS = 32, 4096, 20_000
_NAME = "OVF"
_CPU, _MEMORY, _NIC, _DISK = "3", "4", "10", "17"


@dataclass(frozen=True, slots=True)
class OvfDisk:
    """A disk and the file that it is in, as the description calls it."""

    disk_id: str
    file: str


@dataclass(frozen=True, slots=True)
class Appliance:
    """One machine. `disks` in the order in which it has them; 0: not said."""

    name: str = ""
    disks: tuple[OvfDisk, ...] = ()
    cpus: int = 0
    memory_bytes: int = 0
    nics: int = 0
    firmware: Firmware | None = None


@dataclass(slots=True)
class _Element:
    tag: str
    attributes: dict[str, str]
    children: list[_Element] = field(default_factory=list)
    text: str = ""

    def all(self, tag: str) -> list[_Element]:
        """Every element of that name below this one, in order."""
        found = []
        for child in self.children:
            if child.tag == tag:
                found.append(child)
            found += child.all(tag)
        return found

    def value(self, tag: str) -> str:
        """The text of the first child of that name."""
        return next((child.text.strip() for child in self.children if child.tag == tag), "")


def parse_ovf(text: bytes) -> Appliance:
    """InvalidError (`image-unsafe`, `image-format-unsupported`) for what is no description of one machine."""
    root = _parse(text)
    systems = root.all("VirtualSystem")
    if root.tag != "Envelope" or not systems:
        raise unsafe(_NAME, "it describes no machine", "is it an OVF file?")
    if len(systems) > 1:
        names = ", ".join(system.attributes.get("id", "?")[:40] for system in systems[:8])
        raise unsafe(_NAME, f"it describes {len(systems)} machines ({names})", "export them one by one")
    system = systems[0]
    machine = _hardware(system)
    disks = _disks(root, system)
    if not disks:
        raise unsafe(_NAME, "its machine has no disk", "export it with its disks")
    return replace(machine, name=system.attributes.get("id", "")[:100], disks=disks)


def _parse(text: bytes) -> _Element:
    if len(text) > MAX_BYTES:
        raise unsafe(_NAME, f"it is longer than {MAX_BYTES} bytes", "an OVF file describes one machine")
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = reader.begin
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.EntityDeclHandler = reader.refuse
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # an encoding that is none
        raise unsafe(_NAME, "it cannot be read as XML", f"{error}"[:100]) from error
    return reader.root.children[0]


class _Reader:
    """Builds elements whose names have lost their namespaces."""

    def __init__(self) -> None:
        self.root = _Element("", {})
        self._open = [self.root]
        self._count = 0

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if len(self._open) > _MAX_DEPTH or self._count > _MAX_ELEMENTS:
            raise unsafe(_NAME, "it has too many elements", "an OVF file describes one machine")
        made = _Element(_local(tag), {_local(name): value for name, value in attributes.items()})
        self._open[-1].children.append(made)
        self._open.append(made)

    def end(self, _tag: str) -> None:
        self._open.pop()

    def text(self, data: str) -> None:
        if len(self._open[-1].text) < _MAX_TEXT:
            self._open[-1].text += data

    def refuse(self, *_: object) -> None:
        raise unsafe(_NAME, "it declares entities or a document type", "an OVF file has neither")


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def _disks(root: _Element, system: _Element) -> tuple[OvfDisk, ...]:
    """Those of the machine, in the order of its hardware; else all that are described."""
    files = {}
    for file in root.all("File"):
        if file.attributes.get("chunkSize") or file.attributes.get("compression"):
            raise unsafe(_NAME, "its files are cut into pieces or compressed", "export it as an OVA")
        files[file.attributes.get("id", "")] = file.attributes.get("href", "")
    described = {}
    for disk in root.all("Disk"):
        if disk.attributes.get("parentRef"):
            raise unsafe(_NAME, "a disk is a snapshot over another one", "export it without snapshots")
        href = files.get(disk.attributes.get("fileRef", ""), "")
        if href:  # without one it is an empty disk
            name = disk.attributes.get("diskId", "")
            described[name] = OvfDisk(name[:100], href)
    wanted = [
        item.value("HostResource").rpartition("/")[2] for item in system.all("Item") + system.all("StorageItem")
        if item.value("ResourceType") == _DISK
    ]  # fmt: skip
    used = tuple(described[name] for name in wanted if name in described)
    return used or tuple(described.values())


def _hardware(system: _Element) -> Appliance:
    cpus = memory_bytes = nics = 0
    for item in system.all("Item") + system.all("EthernetPortItem"):
        kind, quantity = item.value("ResourceType"), _number(item.value("VirtualQuantity"))
        if kind == _CPU:
            cpus = cpus or quantity
        elif kind == _MEMORY:
            memory_bytes = memory_bytes or quantity * _unit(item.value("AllocationUnits"))
        elif kind == _NIC:
            nics += 1
    firmware = None
    for option in system.all("Config"):
        if option.attributes.get("key") == "firmware" and option.attributes.get("value", "").lower() == "efi":
            firmware = Firmware.UEFI
    return Appliance(cpus=cpus, memory_bytes=memory_bytes, nics=nics, firmware=firmware)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def _unit(text: str) -> int:
    """`byte * 2^20`, or what older ones write."""
    plain = text.replace(" ", "").lower()
    powers = {"byte": 0, "byte*2^10": 10, "byte*2^20": 20, "byte*2^30": 30, "kilobytes": 10, "megabytes": 20,
              "gigabytes": 30, "kb": 10, "mb": 20, "gb": 30}  # fmt: skip
    return 1 << powers.get(plain, 20)
