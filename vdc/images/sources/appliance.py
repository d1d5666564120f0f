"""An appliance: an OVF description and the disks beside it, in one archive (OVA) or in a folder.

An archive is not unpacked: the disk is read where it lies in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from urllib.parse import unquote

from vdc.images.content import Content, Window
from vdc.images.formats import ovf
from vdc.images.formats.archive import Entry, read_archive
from vdc.images.formats.problems import cut_off, unsafe
from vdc.images.sources.opened import OpenedFile
from vdc.model.errors import InvalidError
from vdc.model.manifest import Firmware
from vdc.model.units import format_size

_CHECKSUM = re.compile(r"(SHA1|SHA256|SHA512)\s*\(([^)]{1,255})\)\s*=\s*([0-9a-fA-F]{40,128})\s*")
_MAX_CHECKSUMS_BYTES = 256 * 1024
_CHUNK_BYTES = 4 * 1024**2


@dataclass(frozen=True, slots=True)
class Part:
    """Where a disk is: all of `file`, or a part of it from `offset_bytes` on.

    `folder`: where files lie that it may name; None where there are none. `verify` raises where it is not what its
    packer packed. `firmware` and `notes`: what an appliance's description says of its machine.
    """

    file: OpenedFile
    content: Content
    format: str = ""
    folder: Path | None = None
    offset_bytes: int | None = None
    verify: Callable[[Event], None] | None = None  # ends early when told so
    firmware: Firmware | None = None
    notes: tuple[str, ...] = ()

    def of_format(self, name: str) -> Part:
        """The same, known to be of a format."""
        return replace(self, format=name)

    @contextmanager
    def verified(self) -> Iterator[None]:
        """Verify beside what is done within; raises at the end of it."""
        if self.verify is None:
            yield
            return
        is_stopped = Event()
        with ThreadPoolExecutor(1, "verify") as pool:
            verifying = pool.submit(self.verify, is_stopped)
            try:
                yield
            except BaseException:
                is_stopped.set()
                raise
            verifying.result()


def open_archive(archive: OpenedFile, wanted: str | None) -> Part:
    """The disk of an OVA; of an archive without a description the only file in it. Raises InvalidError."""
    entries = {entry.name: entry for entry in read_archive(archive.content)}
    descriptions = [name for name in entries if name.lower().endswith(".ovf")]
    if not descriptions:
        return _only_file(archive, tuple(entries.values()))
    if len(descriptions) > 1:
        raise unsafe("OVA", "it holds several descriptions", "pack them one by one")
    described = entries[descriptions[0]]
    text = _all_of(archive.content, described)
    machine = ovf.parse_ovf(text)
    disk = _chosen(machine, wanted)
    folder = described.name.rpartition("/")[0]
    path = f"{folder}/{disk.file}" if folder else disk.file
    entry = entries.get(path) or entries.get(unquote(path))
    if entry is None:
        raise cut_off("OVA", f"the disk {disk.file[:80]!r}")
    sums = _checksums(archive.content, entries, described.name)

    def verify(is_stopped: Event) -> None:
        for one in (described, entry):
            if one.name in sums:
                _verify(archive.content, one, *sums[one.name], is_stopped)

    window = Window(archive.content, entry.place, entry.size_bytes)
    return Part(
        archive,
        window,
        offset_bytes=entry.place,
        verify=verify if sums else None,
        firmware=machine.firmware,
        notes=_notes(machine, disk),
    )


def open_description(description: OpenedFile, wanted: str | None, owned: ExitStack) -> Part:
    """The disk beside an OVF file. Raises InvalidError."""
    text = description.content.read(0, ovf.MAX_BYTES + 1)
    machine = ovf.parse_ovf(text)
    disk = _chosen(machine, wanted)
    name = unquote(disk.file)
    if "/" in name or name in ("", ".", ".."):
        raise unsafe("OVF", f"it names {disk.file[:80]!r}, which is no file beside it", "where is it from?")
    file = OpenedFile(description.path.parent / name, owned, follows_links=False)
    return Part(
        file, file.content, folder=file.path.parent, firmware=machine.firmware, notes=_notes(machine, disk)
    )


def _only_file(archive: OpenedFile, entries: tuple[Entry, ...]) -> Part:
    if len(entries) != 1:
        raise InvalidError(
            "the archive holds no OVF description, and not just one disk",
            hint="unpack it and import the disk file",
            code="image-format-unsupported",
        )
    entry = entries[0]
    return Part(archive, Window(archive.content, entry.place, entry.size_bytes), offset_bytes=entry.place)


def _chosen(machine: ovf.Appliance, wanted: str | None) -> ovf.OvfDisk:
    if wanted is None:
        return machine.disks[0]
    for disk in machine.disks:
        if wanted in (disk.file, disk.disk_id):
            return disk
    names = ", ".join(disk.file[:60] for disk in machine.disks[:8])
    raise InvalidError(
        f"the appliance has no disk {wanted[:60]!r}", hint=f"it has {names}", code="image-disk-unknown"
    )


def _notes(machine: ovf.Appliance, disk: ovf.OvfDisk) -> tuple[str, ...]:
    """What the image cannot say, for whoever creates a guest from it."""
    notes = []
    wishes = [
        f"{machine.cpus} CPUs" if machine.cpus > 1 else "",
        f"{machine.nics} NICs" if machine.nics > 1 else "",
    ]
    if machine.memory_bytes:
        wishes.insert(1, f"{format_size(machine.memory_bytes)} of memory")
    if any(wishes):
        notes.append(f"the appliance wants {', '.join(wish for wish in wishes if wish)}")
    others = [other.file for other in machine.disks if other != disk]
    if others:
        names = ", ".join(name[:60] for name in others[:8])
        notes.append(
            f"of its disks {disk.file[:60]} is imported; for the others ({names}) use --disk and --name"
        )
    return tuple(notes)


def _all_of(content: Content, entry: Entry) -> bytes:
    if entry.size_bytes > ovf.MAX_BYTES:
        raise unsafe("OVA", "its description is too long", "an OVF file describes one machine")
    return content.read(entry.place, entry.size_bytes)


def _checksums(content: Content, entries: dict[str, Entry], described: str) -> dict[str, tuple[str, str]]:
    """From the manifest beside the description: (algorithm, digest) of each file. Empty without one."""
    entry = entries.get(described[: -len(".ovf")] + ".mf")
    if entry is None or entry.size_bytes > _MAX_CHECKSUMS_BYTES:
        return {}
    folder = described.rpartition("/")[0]
    found = {}
    for line in content.read(entry.place, entry.size_bytes).decode("utf-8", "replace").splitlines():
        if match := _CHECKSUM.fullmatch(line.strip()):
            name = f"{folder}/{match[2]}" if folder else match[2]
            found[name] = (match[1].lower(), match[3].lower())
    return found


def _verify(content: Content, entry: Entry, algorithm: str, expected: str, is_stopped: Event) -> None:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    for at in range(0, entry.size_bytes, _CHUNK_BYTES):
        if is_stopped.is_set():
            return
        digest.update(content.read(entry.place + at, min(_CHUNK_BYTES, entry.size_bytes - at)))
    if digest.hexdigest() != expected:
        raise InvalidError(
            f"{entry.name[:80]} is not what its packer packed: {algorithm.upper()} differs",
            hint="fetch the appliance again",
            code="digest-mismatch",
        )
