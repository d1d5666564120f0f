"""One disk file, of any format, possibly compressed or inside of an appliance: checked, converted, looked into.

`plan_disk` is for a file of the user's, `prepare` for whoever has a disk file from elsewhere (the disk in a container
image): the same checks.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from vdc.images import qemuimg
from vdc.images.content import Content
from vdc.images.formats import vmdk
from vdc.images.formats.detect import HEADER_BYTES, PACKED, detect_format
from vdc.images.formats.examine import DiskFile, examine, format_of
from vdc.images.formats.problems import cut_off, unsafe
from vdc.images.formats.qcow2_content import Qcow2Content
from vdc.images.inspect import DiskFacts, inspect_disk
from vdc.images.progress import Progress
from vdc.images.scratch import Scratch
from vdc.images.sources.appliance import Part, open_archive, open_description
from vdc.images.sources.booting import choose_firmware
from vdc.images.sources.opened import OpenedFile
from vdc.images.sources.plan import ImportOptions, ImportPlan, name_of_file
from vdc.images.unpack import unpack
from vdc.images.zeros import is_mostly_empty
from vdc.model.errors import InvalidError, RefusedError
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.manifest import Firmware

_NOT_CHECKED = "its tables were not checked, because {}"


@dataclass(frozen=True, slots=True)
class PreparedDisk:
    """A disk as it is uploaded: qcow2 or raw. `firmware`: None where nothing says it."""

    path: Path
    blob: Blob
    facts: DiskFacts
    firmware: Firmware | None
    notes: tuple[str, ...] = ()

    def plan(self, reference: str) -> ImportPlan:
        """An image of this disk alone."""
        image = Image(
            kind=ImageKind.DISK,
            disk=self.blob,
            disk_format=self.facts.format,
            disk_virtual_bytes=self.facts.virtual_bytes,
            firmware=self.firmware,
        )
        return ImportPlan(reference, image, ((self.blob, self.path),), self.notes)


def plan_disk(path: Path, options: ImportOptions, owned: ExitStack) -> ImportPlan:
    """Plan the import of a disk file; what it needs until then goes into `owned`."""
    reference = options.reference(otherwise=name_of_file(path) if options.name is None else "")
    return prepare(path, options, owned).plan(reference)


def prepare(path: Path, options: ImportOptions, owned: ExitStack) -> PreparedDisk:
    """Check a disk file, and convert what cannot be used as it is; `owned` keeps the temporary files.

    Blocks. Raises InvalidError (`image-*`, `source-*`), ConflictError (`image-changed`), RefusedError (`no-space`,
    `image-tool-missing`).
    """
    given = OpenedFile(path, owned)
    part = _part(given, _unpacked(given, options, owned), options, owned)
    disk = examine(part.content, part.format)
    is_kept = _is_kept(part, disk)
    made = _keep(part, disk, options) if is_kept else _convert(part, disk, options, owned)
    for file in {given, part.file}:
        file.check_unchanged()
    return made


def _unpacked(given: OpenedFile, options: ImportOptions, owned: ExitStack) -> OpenedFile:
    """The file, or what is compressed in it."""
    packing = _packing(given.content)
    if packing is None:
        return given
    scratch = owned.enter_context(Scratch(given.size_bytes))
    what = f"unpacking {given.path.name}"
    path = unpack(
        given.file, packing, scratch, "unpacked", lambda done, total: options.progress(what, done, total)
    )
    unpacked = OpenedFile(path, owned)
    if again := _packing(unpacked.content):
        raise unsafe(packing, f"there is {again} in it", "unpack it first")
    return unpacked


def _packing(content: Content) -> str | None:
    found = detect_format(content.read(0, HEADER_BYTES))
    return found if found in PACKED else None


def _part(given: OpenedFile, file: OpenedFile, options: ImportOptions, owned: ExitStack) -> Part:
    """The disk itself: the file, or a part of the appliance that it is."""
    folder = given.path.parent if file is given else None
    name = format_of(file.content, options.disk_format)
    if name not in ("ova", "ovf"):
        if options.disk is not None:
            raise InvalidError("--disk is for an appliance (OVA, OVF)", code="image-disk-unknown")
        return Part(file, file.content, name, folder)
    if name == "ova":
        part = open_archive(file, options.disk)
    elif folder is not None:
        part = open_description(file, options.disk, owned)
    else:
        raise unsafe("OVF", "its disks are not beside it", "import it where they are")
    found = format_of(part.content, None)
    if found in ("ova", "ovf", "iso"):
        raise unsafe(name.upper(), f"its disk is {found}", "import what is in it")
    return part.of_format(found)


def _is_kept(part: Part, disk: DiskFile) -> bool:
    """Raw disks are kept unless much of them is empty: as qcow2 that is neither stored nor sent."""
    if part.offset_bytes is not None or not disk.is_kept:
        return False
    return disk.format != "raw" or not is_mostly_empty(part.file.file.fileno(), part.file.size_bytes)


def _keep(part: Part, disk: DiskFile, options: ImportOptions) -> PreparedDisk:
    is_qcow2 = disk.format == "qcow2"
    content = Qcow2Content(part.content) if is_qcow2 else part.content
    firmware, booting = choose_firmware(content, options.firmware, part.firmware, is_iso=disk.format == "iso")
    facts = DiskFacts("qcow2" if is_qcow2 else "raw", disk.virtual_bytes)
    if is_qcow2:
        blob, checking = _hash_checked(part.file, options.progress)
    else:
        blob, checking = part.file.hash(options.progress), ()
    return PreparedDisk(part.file.path, blob, facts, firmware, (*part.notes, *checking, *booting))


def _hash_checked(file: OpenedFile, progress: Progress) -> tuple[Blob, tuple[str, ...]]:
    """Its digest, taken while qemu-img looks whether its tables are sound; a note where there is no such program."""
    is_over = Event()
    with ThreadPoolExecutor(1, "check") as pool:
        checking = pool.submit(_check, file.path, is_over)

        def tell(what: str, done: int, total: int) -> None:
            if checking.done():
                checking.result()  # raises, and ends the reading
            progress(what, done, total)

        try:
            return file.hash(tell), checking.result()
        finally:
            is_over.set()


def _check(path: Path, is_over: Event) -> tuple[str, ...]:
    try:
        qemuimg.check(path, is_cancelled=is_over.is_set)
    except RefusedError as error:
        if error.code != "image-tool-missing":
            raise
        return (_NOT_CHECKED.format(error),)
    return ()


def _convert(part: Part, disk: DiskFile, options: ImportOptions, owned: ExitStack) -> PreparedDisk:
    extents = _extents(part, disk, owned)
    size_bytes = sum(file.size_bytes for file in extents) or part.content.size_bytes
    scratch = owned.enter_context(Scratch(min(disk.virtual_bytes, size_bytes)))
    place = qemuimg.Place(
        part.file.path,
        part.offset_bytes or 0,
        None if part.offset_bytes is None else part.content.size_bytes,
    )
    with part.verified():
        path = qemuimg.convert(
            disk, place, scratch, options.progress, extents=[file.path for file in extents]
        )
    made = OpenedFile(path, owned, follows_links=False)
    for file in extents:
        file.check_unchanged()
    facts = inspect_disk(made.content.read(0, HEADER_BYTES), made.size_bytes, "qcow2")
    firmware, booting = choose_firmware(Qcow2Content(made.content), options.firmware, part.firmware)
    blob, checking = _hash_checked(made, options.progress)
    return PreparedDisk(path, blob, facts, firmware, (*part.notes, *checking, *booting))


def _extents(part: Part, disk: DiskFile, owned: ExitStack) -> list[OpenedFile]:
    """The files of a VMDK descriptor, each checked; empty for all else."""
    if disk.extents and part.folder is None:
        raise unsafe("vmdk", "its content is in files that are not beside it", "import it where they are")
    files = []
    for extent in disk.extents:
        if not extent.file or part.folder is None:
            continue
        file = OpenedFile(part.folder / extent.file, owned, follows_links=False)
        files.append(file)
        if extent.kind == "SPARSE":
            if file.content.read(0, 4) != vmdk.SPARSE_MAGIC:
                raise unsafe("vmdk", f"{extent.file[:80]!r} is no part of such a disk", "fetch it again")
            if vmdk.check_sparse(file.content, is_extent=True).virtual_bytes != extent.size_bytes:
                raise unsafe("vmdk", f"{extent.file[:80]!r} is of another size than described")
        elif file.size_bytes < extent.skip_bytes + extent.size_bytes:
            raise cut_off("vmdk", f"{extent.file[:80]!r}")
    return files


def facts_of(path: Path, wanted: str | None) -> DiskFacts:
    """Of a file that may be used as it is; raises as `inspect_disk`."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        size_bytes = file.seek(0, 2)
    return inspect_disk(header, size_bytes, wanted)
