"""Disk files of every format, made by the real qemu-img, and imported."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.fuzz.disks import mbr
from vdc.confinement.limits import ToolLimits
from vdc.images.scratch import Scratch
from vdc.images.sources import ImportOptions, ImportPlan, plan_import
from vdc.images.tool import SCRATCH, Tool, run_tool
from vdc.model.errors import VdcError
from vdc.model.units import GIB, MIB

ROOT = Path(os.environ.get("VDC_CACHE_DIR", "/var/cache/vdc")) / "runtime" / "current"
NEEDS = [
    pytest.mark.skipif(not (ROOT / "usr/bin/qemu-img").exists(), reason="no runtime root: make runtime"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bwrap: make packages"),
]
SIZE = 8 * MIB
LIMITS = ToolLimits(memory_bytes=4 * GIB, file_bytes=GIB, processor_s=60)


FORMATS = {
    "vmdk": (), "vmdk-stream": ("subformat=streamOptimized",), "vmdk-flat": ("subformat=monolithicFlat",),
    "vmdk-two": ("subformat=twoGbMaxExtentSparse",), "vmdk-two-flat": ("subformat=twoGbMaxExtentFlat",),
    "vdi": (), "vdi-static": ("static=on",), "vhdx": (), "vhdx-fixed": ("subformat=fixed",),
    "vpc": ("force_size=on",), "vpc-fixed": ("subformat=fixed,force_size=on",), "qed": (),
}  # fmt: skip


def raw_disk(folder: Path) -> Path:
    """A disk that BIOS boots, with content here and there and nothing in between."""
    path = folder / "disk.raw"
    path.write_bytes(disk_bytes(mbr((0x80, 0x83, 2048, 9999))))
    return path


def disk_bytes(first: bytes) -> bytes:
    some = random.Random(1).randbytes(MIB)
    return (first.ljust(3 * MIB, b"\0") + some).ljust(6 * MIB, b"\0") + some[:5000].ljust(2 * MIB, b"\0")


def qemu_img(folder: Path, *arguments: str) -> None:
    """In `folder`, whose files it then may have made."""
    with Scratch(below=folder) as scratch:
        for path in folder.iterdir():
            if path.is_file():
                shutil.copy(path, scratch.folder)
        before = {path.name for path in scratch.folder.iterdir()}
        run_tool(Tool(("qemu-img", *arguments), LIMITS, 60, scratch=scratch.folder))
        for path in list(scratch.folder.iterdir()):
            if path.name not in before:
                scratch.take(path.name).rename(folder / path.name)


def made(raw: Path, driver: str, *options: str, name: str = "") -> Path:
    """The raw disk in another format."""
    target = name or f"disk.{driver}"
    more = [word for option in options for word in (("-o", option) if "=" in option else (option,))]
    qemu_img(raw.parent, "convert", "-q", "-f", "raw", "-O", driver, *more, raw.name, target)
    return raw.parent / target


def imported(source: Path | str, **options: object) -> ImportPlan:
    with plan_import(str(source), ImportOptions(**options)) as plan:  # type: ignore[arg-type]
        for blob, path in plan.files:
            assert path.stat().st_size == blob.size_bytes
            assert "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() == blob.digest
        return plan


def refused(source: Path | str, **options: object) -> VdcError:
    with pytest.raises(VdcError) as caught:
        imported(source, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return caught.value


def content_of(source: Path, **options: object) -> bytes:
    """What a guest would see of it."""
    with plan_import(str(source), ImportOptions(**options)) as plan:  # type: ignore[arg-type]
        assert plan.image.disk is not None
        path = plan.files[0][1]
        if plan.image.disk_format == "raw":
            return path.read_bytes()
        with Scratch() as scratch:
            shutil.copy(path, scratch.folder / "a")
            run_tool(
                Tool(
                    ("qemu-img", "convert", "-f", "qcow2", "-O", "raw", f"{SCRATCH}/a", "b"), LIMITS, 60,
                    scratch=scratch.folder,
                )
            )  # fmt: skip
            return scratch.take("b").read_bytes()


def appliance(folder: Path, *files: tuple[str, bytes], name: str = "box.ova") -> Path:
    with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, content in files:
            (folder / "member").write_bytes(content)
            tar.add(folder / "member", member)
        (folder / "member").unlink()
    return folder / name
