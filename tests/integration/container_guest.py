"""A container's guest in a real QEMU without an agent: the image mycelium/container over a busybox tree.

The machine is a bare pair's (lockstep_support), so it can be protected as well.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).parent))

import lockstep_support
from labcontainer import make_disk, make_tree
from lockstep_support import CACHE, GUEST_ADDRESS, MIB, Copy, Pair

from hostagent.drivers.disk.copy import DiskSource
from hostagent.drivers.guest import Errors, GuestError, GuestStream
from hostagent.drivers.qemu.spec import (
    CONFIG_FILE,
    GUEST_SOCKET,
    IMAGE_DIR,
    OUTPUT_LOG,
    GuestPort,
    KernelBoot,
)
from hostagent.supervisor.guestline import GuestLine
from hostagent.supervisor.program import parse_status
from vdc.model.guest import (
    CHANNEL_PORT,
    FW_CFG_NAME,
    OUTPUT_PORT,
    GuestConfig,
    GuestNic,
    GuestVolume,
    ProgramStatus,
)
from vdc.model.process import ImageProcess, Process
from vdc.model.program import guest_files, guest_process
from vdc.model.units import GIB

IMAGE = CACHE / "images" / "container" / "current"
SOON_S = 60.0  # the machine is emulated, and other tests run beside it
ROOT_BYTES = 3 * GIB  # the file system in it has 2
VOLUME_UUID = "0b1f6f0c-3c4e-4a55-9a0e-5a7d21a1c0df"
MAC = "52:54:00:99:00:00"
TREE = {
    # What an image may have at the place of a volume.
    "/data/seeded/file": "from the image\n",
    "/bin/serve": '#!/bin/sh\necho "$$ $(hostname) $GREETING"\necho err >&2\nexec httpd -f -p 8080 -h /srv\n',
    "/srv/index.html": "hello\n",
}


def missing() -> str:
    """Why no container's guest can be run here; empty when it can."""
    if not (IMAGE / "image.json").exists():
        return f"needs {IMAGE} (make image-container)"
    return lockstep_support.missing()


def make_image(folder: Path) -> Path:
    """The kernel, the initrd and the disk of a container image, side by side."""
    make_tree(folder / "tree", TREE)
    (folder / "tree/data/seeded").chmod(0o2750)
    image = folder / "image"
    image.mkdir()
    shutil.copy(make_disk(folder, folder / "tree"), image / "disk.qcow2")
    for name in ("vmlinuz", "initrd"):
        shutil.copy(IMAGE / name, image / name)
    return image


class Guest:
    """One copy of the guest and the line to its init."""

    def __init__(self, copy: Copy) -> None:
        self.copy = copy
        self.line = GuestLine(copy.folder / GUEST_SOCKET, "web")
        self.has_powered_off = asyncio.Event()
        copy.qmp.add_listener(
            lambda event, _data, _at: self.has_powered_off.set() if event == "SHUTDOWN" else None
        )

    async def status(self) -> ProgramStatus:
        return parse_status(await self.line.ask("status", deadline_s=SOON_S))

    async def wait(self, condition: Callable[[ProgramStatus], bool]) -> ProgramStatus:
        """Wait for the guest to answer, and to answer so."""
        status = None
        try:
            async with asyncio.timeout(SOON_S):
                while True:
                    with contextlib.suppress(GuestError):
                        if condition(status := await self.status()):
                            return status
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{status!r}, and on the console: {self.copy.serial()[-2000:]}") from None

    async def is_running(self) -> ProgramStatus:
        return await self.wait(lambda status: status.state == "running")

    async def run(self, *argv: str, stdin: bytes = b"", **more: Any) -> tuple[int, bytes, bytes]:
        """A command in the guest."""
        async with (
            asyncio.timeout(SOON_S),
            await self.line.open({"op": "exec", "argv": list(argv), **more}) as stream,
        ):
            writing = asyncio.create_task(_write(stream, stdin))
            out, err = bytearray(), bytearray()
            while (piece := await stream.read()) is not None:
                (err if isinstance(piece, Errors) else out).extend(piece.data)
            await writing
            return int((await stream.answer())["exit_code"]), bytes(out), bytes(err)

    async def sh(self, script: str) -> str:
        """What a script says, which succeeds."""
        code, out, err = await self.run("sh", "-c", script)
        assert (code, err) == (0, b"")
        return out.decode()

    def said(self) -> list[str]:
        """The program's lines, without their times."""
        path = self.copy.folder / OUTPUT_LOG
        text = path.read_text(errors="replace") if path.exists() else ""
        return [line.partition(" ")[2] for line in text.splitlines()]

    async def close(self) -> None:
        await self.line.close()


async def _write(stream: GuestStream, data: bytes) -> None:
    await stream.write(data)
    await stream.end_input()


class ContainerPair(Pair):
    """A bare pair whose guest is a container's."""

    def __init__(self, image: Path, config: GuestConfig, *, disks: int | None = None, **spec: Any) -> None:
        cmdline = json.loads((IMAGE / "image.json").read_text())["cmdline"]
        boot = KernelBoot(f"{IMAGE_DIR}/vmlinuz", f"{IMAGE_DIR}/initrd", cmdline)
        ports = (
            GuestPort(CHANNEL_PORT, GUEST_SOCKET),
            GuestPort(OUTPUT_PORT, OUTPUT_LOG, is_log=True),
        )
        spec = {"boot": boot, "guest_ports": ports, "config_name": FW_CFG_NAME, **spec}
        disks = 1 + len(config.volumes) if disks is None else disks
        super().__init__(disks=disks, nics=len(config.nics), memory_bytes=192 * MIB, **spec)
        self.image_dir = image
        self.prepare_folder = lambda folder: (folder / CONFIG_FILE).write_text(config.to_json())

    def sources(self) -> list[DiskSource]:
        volume = DiskSource(64 * MIB, file_system=VOLUME_UUID)
        return [DiskSource(ROOT_BYTES, "disk.qcow2"), *[volume] * (self.disks - 1)]


def config_of(*, volumes: tuple[GuestVolume, ...] = (), **given: Any) -> GuestConfig:
    """What the agent would tell the guest of a manifest's `process`."""
    process = Process.model_validate({"command": ["/bin/serve"], **given})
    return GuestConfig(
        hostname="web",
        domain="vdc.internal",
        nameservers=("10.99.0.1",),
        nics=(GuestNic(mac=MAC, address=GUEST_ADDRESS, prefix=24, mtu=1400, gateway="10.99.0.1"),),
        volumes=volumes,
        empty_dirs=process.empty_dirs,
        files=guest_files(process),
        process=guest_process(process, ImageProcess(), "web", {}),
        seed=base64.b64encode(os.urandom(64)).decode(),
    )


@contextlib.asynccontextmanager
async def booted(image: Path, config: GuestConfig, **spec: Any) -> AsyncIterator[tuple[ContainerPair, Guest]]:
    """A machine that has just been started."""
    async with ContainerPair(image, config, **spec) as pair:
        guest = Guest(await pair.start_primary())
        try:
            yield pair, guest
        finally:
            await guest.close()


@contextlib.contextmanager
def image_folder() -> Any:
    """A folder for the image that QEMU's user can reach."""
    with tempfile.TemporaryDirectory(prefix="vdct-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield make_image(path)
