"""What an import adds to a conversion: checks, the inspection of what boots, the digest; without the way to a host.

Both in turns on the same file, which nobody has read before: `plan_import`, as `vdc image import` calls it before it
sends anything, and `qemu-img convert` of the same runtime root, as little confined as it can be. From the page cache
qemu-img copies faster than SHA-256 can be had of it, so that would measure the processor's SHA-256.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.figures import Figure, median
from tests.bench.suite import Suite
from vdc.confinement.roots import runtime_root
from vdc.images.sources import plan_import
from vdc.model.units import MIB

MOST_RATIO = 1.2
SIZE_BYTES = 1024 * MIB
_FULL_BYTES = 768 * MIB  # the rest is empty, so that raw is converted as well
_PIECE_BYTES = 4 * MIB
# As QEMU calls them: name, format, options.
SOURCES = (
    ("raw", "raw", ()),
    ("qcow2", "qcow2", ()),
    ("vmdk", "vmdk", ()),
    ("vmdk-stream", "vmdk", ("-o", "subformat=streamOptimized")),
    ("vhdx", "vhdx", ()),
    ("vdi", "vdi", ()),
)


async def imports(suite: Suite) -> None:
    """Every format; the order of the two changes from round to round."""
    with tempfile.TemporaryDirectory(prefix="vdc-bench-import-", dir="/var/tmp") as name:
        found = await asyncio.to_thread(_measure, Path(name), max(3, suite.options.rounds))
    suite.raw["import"] = found
    suite.add(import_figures(found))


def import_figures(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Figure]:
    """A line for each format; `found` has the seconds of each round."""
    size = SIZE_BYTES / MIB
    figures = []
    for name, times in found.items():
        ours, theirs = times["import"], times["convert"]
        note = (
            f"{median(ours) / median(theirs):.2f} of the medians, {size / median(ours):.0f} and "
            f"{size / median(theirs):.0f} MiB/s; CPU {median(times['import_cpu']):.2f} and "
            f"{median(times['convert_cpu']):.2f} s"
            if ours and theirs
            else ""
        )
        ratios = tuple(one / other for one, other in zip(ours, theirs, strict=True))
        figures.append(
            Figure(
                f"images.import.{name}", f"import of {name}, import / qemu-img convert", "", ratios,
                target=MOST_RATIO, note=note,
            )
        )  # fmt: skip
    return figures


def _measure(folder: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    raw = folder / "raw"
    _make_raw(raw)
    found: dict[str, dict[str, list[float]]] = {}
    for name, driver, options in SOURCES:
        if name != "raw":
            _qemu_img(folder, "convert", "-f", "raw", "-O", driver, *options, "raw", name)
        times: dict[str, list[float]] = {"import": [], "convert": [], "import_cpu": [], "convert_cpu": []}
        for number in range(rounds):
            for step in ("import", "convert") if number % 2 else ("convert", "import"):
                _cool(folder / name)
                began, used_s = time.perf_counter(), _cpu_s()
                if step == "import":
                    with plan_import(str(folder / name)):
                        times[step].append(time.perf_counter() - began)
                else:
                    _qemu_img(folder, "convert", "-f", driver, "-O", "qcow2", name, "result")
                    times[step].append(time.perf_counter() - began)
                    (folder / "result").unlink()
                times[f"{step}_cpu"].append(_cpu_s() - used_s)
        found[name] = times
        if name != "raw":
            (folder / name).unlink()
    return found


def _make_raw(path: Path) -> None:
    """Content that neither repeats nor deflates, and the signature of a boot sector."""
    some = random.Random(1)
    with path.open("wb") as file:
        for _ in range(_FULL_BYTES // _PIECE_BYTES):
            file.write(some.randbytes(_PIECE_BYTES))
        file.truncate(SIZE_BYTES)
        file.seek(510)
        file.write(b"\x55\xaa")


def _cool(path: Path) -> None:
    """Out of the page cache, with nothing left to be written back."""
    os.sync()
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _cpu_s() -> float:
    """What this process and those that it waited for have used."""
    return sum(os.times()[:4])


def _qemu_img(folder: Path, *arguments: str) -> None:
    root = runtime_root()
    system = ["--ro-bind", str(root), "/"] if root else ["--ro-bind", "/", "/"]
    subprocess.run(
        ["bwrap", *system, "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run", "--bind", str(folder),
         "/run/work", "--chdir", "/run/work", "--", "qemu-img", *arguments],
        check=True, capture_output=True,
    )  # fmt: skip
