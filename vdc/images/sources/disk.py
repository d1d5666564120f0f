"""One disk file."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from vdc.images.inspect import HEADER_BYTES, DiskFacts, inspect_disk
from vdc.images.sources.plan import ImportOptions, ImportPlan, hash_file, name_of_file
from vdc.model.image import Image, ImageKind


def plan_disk(path: Path, options: ImportOptions, owned: ExitStack) -> ImportPlan:
    """Plan the import of a disk file; what it needs until then goes into `owned`."""
    reference = options.reference(otherwise=name_of_file(path) if options.name is None else "")
    facts = facts_of(path, options.disk_format)
    blob = hash_file(path, options.progress)
    image = Image(
        kind=ImageKind.DISK,
        disk=blob,
        disk_format=facts.format,
        disk_virtual_bytes=facts.virtual_bytes,
        firmware=options.firmware,
    )
    return ImportPlan(reference, image, ((blob, path),))


def facts_of(path: Path, wanted: str | None) -> DiskFacts:
    """Of a file that may be used as it is; raises as `inspect_disk`."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        size_bytes = file.seek(0, 2)
    return inspect_disk(header, size_bytes, wanted)
