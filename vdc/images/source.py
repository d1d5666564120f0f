"""What `vdc image import SOURCE` understands: a recipe's output folder, or one disk file.

The result is a plan: the description, and the file behind each of its blobs. Reads whole files (to hash
them) and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from vdc.images.inspect import HEADER_BYTES, DiskFacts, inspect_disk
from vdc.images.reference import digest_of, normalise_reference
from vdc.model.base import Record
from vdc.model.errors import InvalidError, NotFoundError
from vdc.model.image import Blob, Image, ImageKind

RECIPE_FILE = "image.json"
_CHUNK_BYTES = 1024**2
_MAX_RECIPE_BYTES = 64 * 1024
_REMOTE = ("docker://", "docker-archive:", "docker:", "oci:", "oci-archive:", "http://", "https://", "ssh://")

Progress = Callable[[str, int, int], None]  # file, bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What is to be uploaded and registered."""

    name: str
    image: Image
    files: tuple[tuple[Blob, Path], ...]

    @property
    def digest(self) -> str:
        """The image's digest."""
        return digest_of(self.image)


class Recipe(Record):
    """`image.json` as a recipe writes it; files are plain names beside it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    kind: ImageKind
    arch: str = "x86_64"
    kernel: str | None = None
    initrd: str | None = None
    cmdline: str = ""
    disk: str | None = None
    disk_format: str = "qcow2"
    min_memory_bytes: int = Field(default=0, ge=0)


def plan_import(
    source: str, *, name: str | None = None, disk_format: str | None = None, progress: Progress | None = None
) -> ImportPlan:
    """Read a source; `InvalidError` (`source-unsupported`, `recipe-invalid`, `image-*`), `NotFoundError`."""
    if source.startswith(_REMOTE):
        raise InvalidError(
            f"sources of the form {source.split(':', 1)[0]}: are not supported",
            hint="import a disk file (qcow2 or raw) or the output folder of a recipe",
            code="source-unsupported",
        )
    path = Path(source)
    if not path.exists():
        raise NotFoundError(f"there is no file or folder {source}", code="source-not-found")
    if path.is_dir():
        if disk_format is not None:
            raise InvalidError(
                "--format is for a disk file; a recipe names its own", code="source-unsupported"
            )
        return _plan_recipe(path.resolve(), name, progress)
    if not path.is_file():
        raise InvalidError(f"{source} is neither a file nor a folder", code="source-unsupported")
    return _plan_disk(path, name, disk_format, progress)


def _plan_disk(
    path: Path, name: str | None, disk_format: str | None, progress: Progress | None
) -> ImportPlan:
    reference = normalise_reference(name) if name else _name_of_file(path)
    facts = _facts(path, disk_format)
    blob = _hash_file(path, progress)
    image = Image(
        kind=ImageKind.DISK, disk=blob, disk_format=facts.format, disk_virtual_bytes=facts.virtual_bytes
    )
    return ImportPlan(reference, image, ((blob, path),))


def _plan_recipe(folder: Path, name: str | None, progress: Progress | None) -> ImportPlan:
    recipe = _read_recipe(folder)
    reference = normalise_reference(name or recipe.name)
    if recipe.kind is ImageKind.KERNEL and not recipe.kernel:
        raise _bad_recipe(folder, "kind kernel needs a kernel")
    if recipe.kind is ImageKind.DISK and not recipe.disk:
        raise _bad_recipe(folder, "kind disk needs a disk")
    facts = _facts(_beside(folder, recipe.disk), recipe.disk_format) if recipe.disk else None
    files: dict[str, tuple[Blob, Path]] = {}
    for part in ("disk", "kernel", "initrd"):
        if file_name := getattr(recipe, part):
            path = _beside(folder, file_name)
            files[part] = (_hash_file(path, progress), path)
    image = Image(
        kind=recipe.kind,
        arch=recipe.arch,
        disk_format=recipe.disk_format,
        disk_virtual_bytes=facts.virtual_bytes if facts else 0,
        cmdline=recipe.cmdline,
        min_memory_bytes=recipe.min_memory_bytes,
        **{part: blob for part, (blob, _) in files.items()},
    )
    return ImportPlan(reference, image, tuple(files.values()))


def _read_recipe(folder: Path) -> Recipe:
    try:
        with (folder / RECIPE_FILE).open("rb") as file:
            text = file.read(_MAX_RECIPE_BYTES)
        return Recipe.model_validate(json.loads(text))
    except FileNotFoundError as error:
        raise InvalidError(
            f"{folder} has no {RECIPE_FILE}",
            hint="give a recipe's output folder, or a disk file",
            code="source-unsupported",
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _bad_recipe(folder, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _bad_recipe(folder, "it cannot be read as JSON") from error


def _beside(folder: Path, file_name: str) -> Path:
    """A plain file directly in the folder; anything that leads out of it is refused."""
    path = folder / file_name
    if Path(file_name).name != file_name or path.is_symlink() or not path.is_file():
        raise _bad_recipe(folder, f"{file_name[:80]!r} is not a plain file beside it")
    return path


def _facts(path: Path, wanted: str | None) -> DiskFacts:
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        size_bytes = file.seek(0, 2)
    return inspect_disk(header, size_bytes, wanted)


def _hash_file(path: Path, progress: Progress | None) -> Blob:
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(path.name, done, total)
    return Blob(digest="sha256:" + digest.hexdigest(), size_bytes=done)


def _name_of_file(path: Path) -> str:
    try:
        return normalise_reference(path.stem.lower())
    except InvalidError as error:
        raise InvalidError(
            f"no image name can be made of {path.name!r}",
            hint="choose one with --name",
            code="image-ref-invalid",
        ) from error


def _bad_recipe(folder: Path, reason: str) -> InvalidError:
    return InvalidError(
        f"{folder / RECIPE_FILE} cannot be used: {reason}",
        hint="build the recipe again",
        code="recipe-invalid",
    )
