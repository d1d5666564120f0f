"""The output folder of a recipe (images/): `image.json`, and the files that it names beside it."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from vdc.images.sources.disk import facts_of
from vdc.images.sources.plan import ImportOptions, ImportPlan, hash_file
from vdc.model.base import Record
from vdc.model.errors import InvalidError
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.manifest import Firmware

RECIPE_FILE = "image.json"
_MAX_RECIPE_BYTES = 64 * 1024
_NO_OPTIONS = ImportOptions()


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
    firmware: Firmware | None = None


def plan_recipe(folder: Path, options: ImportOptions = _NO_OPTIONS) -> ImportPlan:
    """Plan the import of a recipe's output; it owns nothing, so it is good for as long as the folder is."""
    recipe = _read_recipe(folder)
    reference = options.reference(otherwise=recipe.name)
    if recipe.kind is ImageKind.KERNEL and not recipe.kernel:
        raise _bad_recipe(folder, "kind kernel needs a kernel")
    if recipe.kind is ImageKind.DISK and not recipe.disk:
        raise _bad_recipe(folder, "kind disk needs a disk")
    facts = facts_of(_beside(folder, recipe.disk), recipe.disk_format) if recipe.disk else None
    files: dict[str, tuple[Blob, Path]] = {}
    for part in ("disk", "kernel", "initrd"):
        if file_name := getattr(recipe, part):
            path = _beside(folder, file_name)
            files[part] = (hash_file(path, options.progress), path)
    image = Image(
        kind=recipe.kind,
        arch=recipe.arch,
        disk_format=recipe.disk_format,
        disk_virtual_bytes=facts.virtual_bytes if facts else 0,
        cmdline=recipe.cmdline,
        min_memory_bytes=recipe.min_memory_bytes,
        firmware=options.firmware or recipe.firmware,
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


def _bad_recipe(folder: Path, reason: str) -> InvalidError:
    return InvalidError(
        f"{folder / RECIPE_FILE} cannot be used: {reason}",
        hint="build the recipe again",
        code="recipe-invalid",
    )
