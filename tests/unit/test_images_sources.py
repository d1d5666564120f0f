"""What can be imported: a recipe's folder, a disk file, nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from vdc.images.sources import ImportOptions, ImportPlan
from vdc.images.sources import plan_import as opened
from vdc.model.errors import VdcError
from vdc.model.image import ImageKind

DISK = (b"\xeb".ljust(510, b"\0") + b"\x55\xaa") * 4


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "versions" / "1"
    folder.mkdir(parents=True)
    (folder / "vmlinuz").write_bytes(b"kernel")
    (folder / "initrd").write_bytes(b"initrd")
    (folder / "disk.raw").write_bytes(DISK)
    write_recipe(folder)
    return folder


def write_recipe(folder: Path, **changes: Any) -> None:
    values = {
        "name": "mycelium/mini:latest", "kind": "kernel", "arch": "x86_64", "kernel": "vmlinuz",
        "initrd": "initrd", "cmdline": "console=ttyS0", "disk": "disk.raw", "disk_format": "raw",
        "min_memory_bytes": 134217728,
    }  # fmt: skip
    (folder / "image.json").write_text(json.dumps({**values, **changes}))


def plan_import(source: str, **options: Any) -> ImportPlan:
    with opened(source, ImportOptions(**options)) as plan:
        return plan


def error_of(source: Path | str, **options: Any) -> VdcError:
    with pytest.raises(VdcError) as caught:
        plan_import(str(source), **options)
    return caught.value


def test_a_recipe_becomes_an_image_with_its_files(recipe: Path) -> None:
    plan = plan_import(str(recipe))
    assert plan.name == "mycelium/mini:latest"
    assert plan.image.kind is ImageKind.KERNEL
    assert plan.image.kernel is not None
    assert plan.image.kernel.digest == "sha256:" + hashlib.sha256(b"kernel").hexdigest()
    assert plan.image.disk_virtual_bytes == len(DISK)
    assert plan.image.min_memory_bytes == 134217728
    assert {path.name for _, path in plan.files} == {"vmlinuz", "initrd", "disk.raw"}
    assert {blob for blob, _ in plan.files} == set(plan.image.blobs)


def test_a_link_to_the_recipes_folder_and_another_name(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(recipe)
    plan = plan_import(str(tmp_path / "current"), name="me/other")
    assert plan.name == "me/other:latest"
    assert plan.digest == plan_import(str(recipe)).digest


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": "../../secret"},
        {"kernel": "/etc/hostname"},
        {"kernel": "link"},
        {"kernel": "absent"},
        {"kernel": None},
        {"kernel": ""},
        {"kind": "spaceship"},
        {"kind": "disk", "disk": None},
        {"min_memory_bytes": -1},
        {"name": None},
    ],
)
def test_a_bad_recipe_is_refused(recipe: Path, changes: dict[str, Any]) -> None:
    (recipe.parent.parent / "secret").write_text("x")
    (recipe / "link").symlink_to("/etc/hostname")
    write_recipe(recipe, **changes)
    assert error_of(recipe).code == "recipe-invalid"


@pytest.mark.parametrize("text", ["", "[", "[]", "[" * 100_000, '{"a": 1e999}'])
def test_a_recipe_that_is_not_json_is_refused(recipe: Path, text: str) -> None:
    (recipe / "image.json").write_text(text)
    assert error_of(recipe).code == "recipe-invalid"


def test_a_disk_file_is_named_after_itself_or_by_the_user(tmp_path: Path) -> None:
    disk = tmp_path / "Debian-12.img"
    disk.write_bytes(DISK)
    plan = plan_import(str(disk))
    assert (plan.name, plan.image.kind, plan.image.disk_format) == ("debian-12:latest", ImageKind.DISK, "raw")
    assert plan_import(str(disk), name="a/b:1").name == "a/b:1"


def test_the_format_can_be_given(tmp_path: Path) -> None:
    disk = tmp_path / "data"
    disk.write_bytes(bytes(1024))
    assert error_of(disk).code == "image-format-unknown"
    assert plan_import(str(disk), disk_format="raw").image.disk_virtual_bytes == 1024


def test_a_name_that_cannot_be_made_is_asked_for(tmp_path: Path) -> None:
    disk = tmp_path / "my disk.img"
    disk.write_bytes(DISK)
    assert "--name" in error_of(disk).problem.hint


@pytest.mark.parametrize(
    "source", ["docker-daemon:nginx", "docker:nginx", "ssh://host/x", "https://a/b.qcow2"]
)
def test_sources_of_other_kinds_are_named(source: str) -> None:
    assert error_of(source).code == "source-unsupported"


def test_what_is_not_there_and_what_is_not_a_file(tmp_path: Path) -> None:
    assert error_of(tmp_path / "no").code == "source-not-found"
    assert error_of(tmp_path).code == "source-unsupported"
    assert error_of("/dev/null").code == "source-unsupported"
    assert error_of(tmp_path, disk_format="raw").code == "source-unsupported"


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    disk = tmp_path / "a.img"
    disk.write_bytes(DISK)
    seen: list[tuple[str, int, int]] = []
    plan_import(str(disk), progress=lambda *figures: seen.append(figures))
    assert seen[-1] == ("reading a.img", len(DISK), len(DISK))
