"""How long imports take until there is a plan to upload, against the tools that do the largest part of the work, alone.

A container image of Debian's PostgreSQL out of an image layout against `skopeo copy`, which unpacks its layers
(`--dest-decompress`) and, for what it is worth, which only copies them; a VMDK against `qemu-img convert`. All tools
run in the same sandbox.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.figures import Figure, median
from tests.bench.suite import Suite
from tests.bench.world import BenchError
from tests.debian_programs import missing, program_image
from vdc.confinement.limits import ToolLimits
from vdc.confinement.sandbox import Bind
from vdc.images.scratch import Scratch
from vdc.images.sources import ImportOptions, plan_import
from vdc.images.tool import Tool, run_tool
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.units import GIB, MIB

_DISK_BYTES = 512 * MIB
_LIMITS = ToolLimits(memory_bytes=16 * GIB, file_bytes=16 * GIB, processor_s=3600, open_files=1024)
_NOTHING = Blob(digest="sha256:" + "0" * 64, size_bytes=0)
_KERNEL = Image(kind=ImageKind.KERNEL, kernel=_NOTHING, initrd=_NOTHING)


async def imports(suite: Suite) -> None:
    """In turns, the order changing from round to round."""
    if reason := missing():
        raise BenchError(reason)
    layout = await asyncio.to_thread(program_image, "postgresql")
    with tempfile.TemporaryDirectory(prefix="vdc-bench-imports-", dir="/var/tmp") as name:
        disk = await asyncio.to_thread(_make_vmdk, Path(name))
        works: dict[str, Callable[[], object]] = {
            "container": lambda: _import(f"oci:{layout}:latest"),
            "skopeo-unpacking": lambda: _copy(layout, "--dest-decompress"),
            "skopeo": lambda: _copy(layout),
            "disk": lambda: _import(str(disk)),
            "qemu-img": lambda: _convert(disk),
        }
        seconds: dict[str, list[float]] = {key: [] for key in works}
        for number in range(max(3, suite.options.rounds)):
            for key in sorted(works, reverse=bool(number % 2)):
                began = time.monotonic()
                await asyncio.to_thread(works[key])
                seconds[key].append(time.monotonic() - began)
    suite.raw["imports"] = seconds
    suite.add(import_figures(seconds))


def import_figures(seconds: dict[str, list[float]]) -> list[Figure]:
    """Of the seconds of each round."""

    def ratio(ours: str, theirs: str) -> tuple[float, ...]:
        return tuple(one / other for one, other in zip(seconds[ours], seconds[theirs], strict=True))

    ours, bare = median(seconds["container"]), median(seconds["skopeo"])
    return [
        Figure(
            "imports.container", "import of a container image / skopeo copy --dest-decompress", "",
            ratio("container", "skopeo-unpacking"), target=1.2,
            note=f"{ours:.2f} s; skopeo copy without unpacking anything {bare:.2f} s",
        ),
        Figure(
            "imports.disk", f"import of a VMDK, {_DISK_BYTES / MIB:.0f} MiB / qemu-img convert", "",
            ratio("disk", "qemu-img"), target=1.2,
            note=f"{median(seconds['disk']):.2f} s: its digest is taken, its tables and what boots it are looked at",
        ),
    ]  # fmt: skip


def _import(source: str) -> None:
    with plan_import(source, ImportOptions(name="bench/import", find_image=lambda _: _KERNEL)):
        pass


def _copy(layout: Path, *options: str) -> None:
    with Scratch() as scratch:
        argv = ("skopeo", "--insecure-policy", "copy", *options, "oci:/run/input:latest", "dir:copy")
        run_tool(Tool(argv, _LIMITS, 600, (Bind(layout, "/run/input"),), scratch.folder))


def _convert(disk: Path) -> None:
    with Scratch() as scratch:
        argv = ("qemu-img", "convert", "-f", "vmdk", "-O", "qcow2", "/run/input", "copy.qcow2")
        run_tool(Tool(argv, _LIMITS, 600, (Bind(disk, "/run/input"),), scratch.folder))


def _make_vmdk(folder: Path) -> Path:
    """Of what cannot be compressed, with a boot sector."""
    with Scratch() as scratch:
        with scratch.own("raw").open("wb") as file:
            file.write(b"\xeb".ljust(510, b"\0") + b"\x55\xaa" + bytes(MIB - 512))
            for _ in range(_DISK_BYTES // MIB - 1):
                file.write(os.urandom(MIB))
        argv = ("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "/run/input", "disk.vmdk")
        run_tool(Tool(argv, _LIMITS, 600, (Bind(scratch.own("raw"), "/run/input"),), scratch.folder))
        target = folder / "disk.vmdk"
        target.write_bytes(scratch.take("disk.vmdk").read_bytes())
    return target
