"""What an import is asked to do, and what it is going to upload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from vdc.images.oci.registries import RegistryOptions
from vdc.images.progress import Progress, untold
from vdc.images.reference import digest_of, normalise_reference
from vdc.images.sources.opened import blob_of
from vdc.model.errors import InvalidError
from vdc.model.image import Blob, Image
from vdc.model.manifest import Firmware

_PACKED = (".gz", ".bz2", ".xz", ".zst")


def _none_of(name: str) -> Image | None:
    """There is no cluster to ask."""
    return None


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What the user says beside the source. `disk`: which one of an appliance that has several.

    `find_image` asks the cluster for an image by its full name.
    """

    name: str | None = None
    disk_format: str | None = None
    firmware: Firmware | None = None
    disk: str | None = None
    is_container_disk: bool = False
    registry: RegistryOptions = field(default_factory=RegistryOptions)
    find_image: Callable[[str], Image | None] = _none_of
    progress: Progress = untold

    def reference(self, otherwise: str) -> str:
        """The image's name: the user's, or `otherwise`; InvalidError (`image-ref-invalid`) where it is none."""
        return normalise_reference(self.name or otherwise)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What is to be uploaded and registered. `notes`: sentences that the user should read."""

    name: str
    image: Image
    files: tuple[tuple[Blob, Path], ...]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The image's digest."""
        return digest_of(self.image)

    def named(self, name: str) -> ImportPlan:
        """The same under another name."""
        return replace(self, name=name)

    def noting(self, *notes: str) -> ImportPlan:
        """The same with more to read."""
        return replace(self, notes=(*self.notes, *notes))


def hash_file(path: Path, progress: Progress, what: str = "") -> Blob:
    """Read a file to its end; `what` is what the progress calls it."""
    with path.open("rb") as file:
        return blob_of(file, what or f"reading {path.name}", progress)


def name_of_file(path: Path) -> str:
    """An image's name after a file, without `.qcow2` or `.raw.xz`; InvalidError where none can be made."""
    stem = path.stem if path.suffix.lower() not in _PACKED else Path(path.stem).stem
    try:
        return normalise_reference(stem.lower())
    except InvalidError as error:
        raise InvalidError(
            f"no image name can be made of {path.name!r}",
            hint="choose one with --name",
            code="image-ref-invalid",
        ) from error
