"""Domains as people have them, and what becomes of them; set UPDATE_GOLDEN=1 to write the files anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vdc.interchange.domain import read_domain
from vdc.interchange.incoming import Import, Wishes, plan_domain
from vdc.model.manifest_file import load_text
from vdc.model.strict_yaml import dump

FOLDER = Path(__file__).parent / "golden" / "interchange"
DOMAINS = sorted(path.stem for path in FOLDER.glob("*.xml"))
WISHES = {
    "windows11": Wishes(name="accounting", image_name="me/windows:11", networks={"br0": "office"}),
    "proxmox": Wishes(protect=False),
}
VOLUMES = {("local", "vm-104-disk-1.qcow2"): "/var/lib/vz/images/104/vm-104-disk-1.qcow2"}


def text_of(plan: Import) -> str:
    """Manifest, images and losses, as a person sees them."""
    lines = [
        dump(plan.manifest.model_dump(mode="json", by_alias=True, exclude_none=True)).rstrip(),
        "",
        "images:",
    ]
    for disk in plan.disks:
        below = "".join(f" over {file.path} ({file.format})" for file in disk.stated_backing)
        lines.append(f"  {disk.name}: {disk.path}: {disk.file.path} ({disk.file.format}){below}")
    return "\n".join([*lines, "", *map(str, plan.losses)]) + "\n"


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_becomes(name: str) -> None:
    plan = plan_domain(
        read_domain((FOLDER / f"{name}.xml").read_bytes()), WISHES.get(name, Wishes()), VOLUMES
    )
    path = FOLDER / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text_of(plan))
    assert text_of(plan) == path.read_text()


@pytest.mark.parametrize("name", DOMAINS)
def test_its_manifest_can_be_applied_as_it_is_printed(name: str) -> None:
    plan = plan_domain(read_domain((FOLDER / f"{name}.xml").read_bytes()), Wishes(), VOLUMES)
    text = dump(plan.manifest.model_dump(mode="json", by_alias=True, exclude_none=True))
    (loaded,) = load_text(text.encode(), "printed")
    assert loaded.manifest == plan.manifest


def test_no_password_is_passed_on() -> None:
    plan = plan_domain(read_domain((FOLDER / "windows11.xml").read_bytes()), Wishes())
    assert "geheim" not in text_of(plan)
