"""How long a file of an image takes from one host to another, against scp of the same file between the same hosts.

One sender: the third host has no power. The product's time is from naming the image until the file is whole, verified
and flushed under its name on the other host; scp's handshake, which the product does not need, is taken off its time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.bench.figures import Figure, median
from tests.bench.ssh import Server, serving
from tests.bench.suite import Suite
from tests.bench.world import LAB, BenchError, World, until
from vdc.api.client import ApiClient
from vdc.api.upload import send_blob
from vdc.images.blobs import BlobStore
from vdc.lab import api as lab_api
from vdc.lab.images import STORE
from vdc.lab.plan import Underlay
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.units import MIB

SENDER, RECEIVER, SPARE = "h1", "h2", "h3"
SIZE_BYTES = 512 * MIB
NAME = "bench/distribution"
_FETCH_S = 300.0
_SECTOR = b"\xeb".ljust(510, b"\0") + b"\x55\xaa"


async def distribution(suite: Suite) -> None:
    """Both ways in turns, the order changing from round to round."""
    world = suite.world
    with tempfile.TemporaryDirectory(prefix="vdc-bench-images-", dir="/var/tmp") as name:
        folder = Path(name)
        image = await asyncio.to_thread(_make_disk, folder / "disk.img")
        try:
            await _spread(world, folder / "disk.img", image)
            await lab_api.fault(LAB, "power-off", SPARE)
            address = str(world.plan.host(RECEIVER).address(Underlay.MANAGEMENT))
            async with serving(SENDER, RECEIVER, address, folder) as server:
                ours, theirs, handshakes = await _compare(suite, server, image)
        finally:
            await world.heal()
            await _remove(world)
    suite.raw["distribution"] = {"product_s": ours, "scp_s": theirs, "scp_handshake_s": handshakes}
    suite.add(distribution_figures(ours, theirs, handshakes))


def distribution_figures(
    ours: Sequence[float], theirs: Sequence[float], handshakes: Sequence[float]
) -> list[Figure]:
    """Seconds of each round; scp's are with the handshake."""
    handshake = median(handshakes)
    ratios = tuple(one / (other - handshake) for one, other in zip(ours, theirs, strict=True))
    size = SIZE_BYTES / MIB
    return [
        Figure(
            "images.distribution", f"image to another host, {size:.0f} MiB, product / scp", "", ratios, target=1.0,
            note=f"product {median(ours):.2f} s, scp {median(theirs):.2f} s and {handshake:.2f} s of it its handshake",
        ),
        Figure(
            "images.distribution.rate", "image to another host", "MiB/s", tuple(size / one for one in ours),
        ),
    ]  # fmt: skip


async def _compare(
    suite: Suite, server: Server, image: Image
) -> tuple[list[float], list[float], list[float]]:
    ours: list[float] = []
    theirs: list[float] = []
    handshakes: list[float] = []
    source = _store(suite.world, SENDER).path(_disk(image).digest)
    target = _store(suite.world, RECEIVER).folder / ".bench"
    for number in range(max(3, suite.options.rounds)):
        steps = ["ours", "theirs"] if number % 2 else ["theirs", "ours"]
        for step in steps:
            if step == "ours":
                ours.append(await _fetch(suite.world, image, number))
                continue
            try:
                theirs.append(await asyncio.to_thread(server.copy, source, target))
            finally:
                target.unlink(missing_ok=True)
            handshakes.append(await asyncio.to_thread(server.copy, server.folder / "empty", target))
    return ours, theirs, handshakes


async def _fetch(world: World, image: Image, number: int) -> float:
    """The receiver loses the file, and gets it again as soon as it looks at the image's record."""
    store, digest = _store(world, RECEIVER), _disk(image).digest
    store.remove(digest)
    path, end = store.path(digest), time.monotonic() + _FETCH_S
    async with ApiClient([f"unix://{world.plan.host(SENDER).api_socket}"]) as sender:
        began = time.monotonic()
        await sender.register_image(f"{NAME}:{number}", image)
        while not path.exists():
            if time.monotonic() > end:
                raise BenchError(f"{RECEIVER} did not fetch the image")
            await asyncio.sleep(0.005)
    return time.monotonic() - began


async def _spread(world: World, path: Path, image: Image) -> None:
    """Import it on one host, and wait until all have it: nothing else travels then."""
    blob = _disk(image)

    async def content(first: int) -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            file.seek(first)
            while chunk := file.read(MIB):
                yield chunk

    async with ApiClient([f"unix://{world.plan.host(SENDER).api_socket}"]) as sender:
        await send_blob(sender, blob, content)
        await sender.register_image(NAME, image)

    async def is_everywhere() -> bool:
        entries = (await world.api.list_images()).items
        return any(entry.image == image and len(entry.hosts) == 3 for entry in entries)

    await until(is_everywhere, "the image on every host", _FETCH_S, every_s=0.5)


async def _remove(world: World) -> None:
    for entry in (await world.api.list_images()).items:
        if any(name.startswith(NAME) for name in entry.names):
            await world.api.remove_image(entry.digest)


def _make_disk(path: Path) -> Image:
    """A raw disk that cannot be compressed."""
    digest, left = hashlib.sha256(), SIZE_BYTES
    with path.open("wb") as file:
        while left:
            piece = os.urandom(min(left, MIB))
            piece = piece if left < SIZE_BYTES else _SECTOR + piece[len(_SECTOR) :]
            file.write(piece)
            digest.update(piece)
            left -= len(piece)
    blob = Blob(digest=f"sha256:{digest.hexdigest()}", size_bytes=SIZE_BYTES)
    return Image(kind=ImageKind.DISK, disk=blob, disk_format="raw", disk_virtual_bytes=SIZE_BYTES)


def _disk(image: Image) -> Blob:
    assert image.disk is not None
    return image.disk


def _store(world: World, host: str) -> BlobStore:
    return BlobStore(world.plan.host(host).state_dir / STORE)
