"""What a resync copies: nothing of a base, and of a large disk what was written since its secondary left in order."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.suite import Suite
from tests.bench.world import IMAGE, LAB, NAME, BenchError, World, until
from vdc.lab import api as lab_api
from vdc.model.units import GIB, MIB

DISK_BYTES = GIB
WRITTEN_MIB = 300
MOST_PERCENT = 5.0
WRITE_S = 240.0
_DISKS = ({"name": "system"}, {"name": "data", "size": DISK_BYTES})

Copied = Mapping[str, float]  # the figures of a `lockstep-entered` event


async def resync(suite: Suite) -> None:
    """A VM that has just booted; one that wrote while it was unprotected; one whose secondary's host was off."""
    world = suite.world
    began = time.time()
    async with world.protected():
        fresh = (await world.event("lockstep-entered", began)).figures
    async with world.protected(disks=_DISKS):
        await world.unprotect()
        await _write(world)
        written = await _protect(world)
        secondary = (await world.view()).status.secondary
        if secondary is None:
            raise BenchError("there is no secondary")
        await world.unprotect()
        await lab_api.fault(LAB, "power-off", secondary.host)
        await world.heal()
        restarted = await _protect(world)
    image_bytes = await _image_bytes(world)
    found = {"fresh": fresh, "written": written, "restarted": restarted}
    suite.raw["resync"] = {**found, "image_bytes": image_bytes}
    suite.add(resync_figures(fresh, written, restarted, image_bytes))
    if not restarted.get("resumed"):
        suite.problem("resync: the older copy was not used after the host's restart")


def resync_figures(fresh: Copied, written: Copied, restarted: Copied, image_bytes: int) -> list[Figure]:
    """What was copied of the disks in each case."""
    disk = f"1 GiB disk with {WRITTEN_MIB} MiB of data"
    share = 100 * restarted["disk_bytes"] / DISK_BYTES
    return [
        Figure(
            "resync.restart", f"disk copied after a clean restart of the secondary's host, {disk}", "%", (share,),
            target=MOST_PERCENT, note=_took(restarted),
        ),
        Figure(
            "resync.written", f"disk copied after {WRITTEN_MIB} MiB were written unprotected", "MiB",
            (written["disk_bytes"] / MIB,), note=_took(written),
        ),
        Figure(
            "resync.base", "disk copied of a VM that has just booted", "MiB", (fresh["disk_bytes"] / MIB,),
            note=f"nothing of its base, {image_bytes / MIB:.0f} MiB; {_took(fresh)}",
        ),
    ]  # fmt: skip


def _took(copied: Copied) -> str:
    return f"{copied['disk_bytes'] / MIB:.2f} MiB of disk in {copied['mirror_ms']:.0f} ms"


async def _write(world: World) -> None:
    """Fill a part of the second disk, by the guest's console."""
    work = f"dd if=/dev/urandom of=/dev/vdb bs=1M count={WRITTEN_MIB} conv=fsync && touch /data/written"
    await asyncio.to_thread(_shell, f"({work}) >/dev/null 2>&1 & true")

    async def is_written() -> bool:
        return "written" in (await asyncio.to_thread(_shell, "ls /data")).rpartition("begin")[2]

    await until(is_written, "the guest's data", WRITE_S, every_s=2.0)


def _shell(command: str) -> str:
    vdc = str(Path(sys.executable).parent / "vdc")
    done = subprocess.run(
        [vdc, "console", NAME], input=f"\necho be''gin; {command}\n", capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    return done.stdout


async def _protect(world: World) -> Copied:
    began = time.time()
    await world.protect()
    return (await world.event("lockstep-entered", began)).figures


async def _image_bytes(world: World) -> int:
    entries = (await world.api.list_images()).items
    sizes = [
        entry.image.disk_virtual_bytes for entry in entries if any(IMAGE in name for name in entry.names)
    ]
    return max((size or 0 for size in sizes), default=0)
