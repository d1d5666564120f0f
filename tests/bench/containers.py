"""A container as a VM: how long until its program answers, and what one more of it takes of its hosts' disks.

Debian's redis, as its packages have it, protected like any VM. The clock runs from the request; the answer is the first
line that the program says over TCP to a client on the overlay, which asks from the beginning on.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench.figures import Figure
from tests.bench.suite import Suite
from tests.bench.world import LAB, NAME, BenchError, World, run, until
from tests.debian_programs import missing, program_image
from vdc.images.blobs import BlobStore
from vdc.lab import api as lab_api
from vdc.lab.images import STORE
from vdc.model.errors import VdcError
from vdc.model.image import Blob
from vdc.model.units import MIB

IMAGE = "bench/redis:latest"
PORT = 6379
VMS = 3
_SPEC: dict[str, Any] = {"image": IMAGE, "virtualComputer": {"type": "container"}}
_HOSTS = 3
_BLOCK_BYTES = 512  # of st_blocks
_VDC = str(Path(sys.executable).parent / "vdc")
_FETCH_S, _SETTLE_S, _ASK_AGAIN_MS = 120.0, 6.0, 50
_WHEN = "read up rest </proc/uptime; echo $up $(date +%s.%N)"


@dataclass(frozen=True)
class Boot:
    """Seconds: from the request to the first answer; the guest's own, from its kernel's start to its program's."""

    answer_s: float
    kernel_and_init_s: float


@dataclass(frozen=True)
class Copy:
    """What a VM has on one host's disk."""

    vm: str
    host: str
    is_primary: bool
    size_bytes: int


async def containers(suite: Suite) -> None:
    """Boot it again and again; then several of them beside each other."""
    if reason := missing():
        raise BenchError(reason)
    boots: list[Boot] = []
    async with _imported(suite.world) as disk:
        await _ask_often(suite.world)
        for number in range(suite.options.runs):
            try:
                boots.append(await _boot(suite.world))
            except (VdcError, TimeoutError) as error:
                suite.problem(f"container, round {number + 1}: {error}")
                continue
            suite.say(f"container {number + 1}/{suite.options.runs}: {boots[-1].answer_s:.2f} s")
        copies = await _several(suite.world)
        base_bytes = min(_base_bytes(suite.world, disk))
    suite.raw["container"] = {
        "boots": [asdict(boot) for boot in boots], "copies": [asdict(copy) for copy in copies],
        "base_bytes": base_bytes,
    }  # fmt: skip
    suite.add([*boot_figures(boots), *room_figures(copies, base_bytes)])


def boot_figures(boots: Sequence[Boot]) -> list[Figure]:
    """The whole, and the guest's part of it."""
    return [
        Figure("container.boot", "container, create to first answer", "s", tuple(one.answer_s for one in boots)),
        Figure(
            "container.boot.guest", "of it kernel and init, until the program starts", "s",
            tuple(one.kernel_and_init_s for one in boots),
        ),
    ]  # fmt: skip


def room_figures(copies: Sequence[Copy], base_bytes: int) -> list[Figure]:
    """By role: a secondary's disks are three files."""
    return [
        Figure(
            f"container.room.{role}", f"disk of one more container VM, on the {role}'s host", "MiB",
            tuple(one.size_bytes / MIB for one in copies if one.is_primary is (role == "primary")),
            note=f"and of its image, {base_bytes / MIB:.0f} MiB, nothing: all of a host share one file",
        )
        for role in ("primary", "secondary")
    ]  # fmt: skip


async def _boot(world: World) -> Boot:
    await world.delete()
    began = time.monotonic()
    await world.create(**_SPEC)
    try:
        address = (await world.view()).status.addresses[0]
        await world.answers(address, PORT)
        answered_s = time.monotonic() - began
        return Boot(answered_s, await _until_program(world))
    finally:
        await asyncio.shield(world.delete())


async def _until_program(world: World) -> float:
    """From the start of the guest's kernel to that of its program, by the guest's clock."""
    started: list[float] = []

    async def is_known() -> bool:
        program = (await world.view()).status.program
        started[:] = [datetime.fromisoformat(program.started_at).timestamp()] if program else []
        return bool(started)

    await until(is_known, "the state of the program")
    done = await run([_VDC, "exec", NAME, "--", "sh", "-c", _WHEN], timeout_s=60)
    up_s, now_s = map(float, done.stdout.split())
    return started[0] - (now_s - up_s)


async def _several(world: World) -> list[Copy]:
    """What each copy takes once all are in lockstep and have written what they write at first."""
    names = [f"{NAME}-{number}" for number in range(VMS)]
    async with AsyncExitStack() as made:
        for name in names:
            made.push_async_callback(world.delete, name)
            await world.create(**_SPEC, name=name)
            await world.answers((await world.view(name)).status.addresses[0], PORT)
        found = []
        views = [await world.lockstep(name) for name in names]
        await asyncio.sleep(_SETTLE_S)
        os.sync()
        for name, view in zip(names, views, strict=True):
            for copy in (view.status.primary, view.status.secondary):
                if copy is None:
                    raise BenchError(f"{name} has lost a copy")
                folder = world.plan.host(copy.host).state_dir / "vms" / name
                found.append(Copy(name, copy.host, copy == view.status.primary, _room(folder)))
        return found


def _room(folder: Path) -> int:
    """As du counts."""
    return sum(path.lstat().st_blocks * _BLOCK_BYTES for path in (folder, *folder.rglob("*")))


def _base_bytes(world: World, disk: Blob) -> list[int]:
    """What the image takes on each host."""
    stores = [BlobStore(host.state_dir / STORE) for host in world.plan.guest_hosts]
    return [store.path(disk.digest).stat().st_blocks * _BLOCK_BYTES for store in stores]


async def _ask_often(world: World) -> None:
    """The client's kernel looks for an address that is not there yet once a second; that would be measured."""
    script = f"for file in /proc/sys/net/ipv4/neigh/*/retrans_time_ms; do echo {_ASK_AGAIN_MS} >$file; done"
    await run(lab_api.exec_argv(LAB, "client", ["sh", "-c", script]), timeout_s=30)


@asynccontextmanager
async def _imported(world: World) -> AsyncIterator[Blob]:
    """The image, on every host for the time of the block; its disk."""
    layout = await asyncio.to_thread(program_image, "redis")
    await run([_VDC, "image", "import", f"oci:{layout}:latest", "--name", IMAGE], timeout_s=_FETCH_S)
    try:
        found: list[Blob] = []

        async def is_everywhere() -> bool:
            entries = [one for one in (await world.api.list_images()).items if IMAGE in one.names]
            found[:] = [one.image.disk for one in entries if one.image.disk and len(one.hosts) == _HOSTS]
            return bool(found)

        await until(is_everywhere, "the image on every host", _FETCH_S, every_s=0.5)
        yield found[0]
    finally:
        await world.api.remove_image(IMAGE)
