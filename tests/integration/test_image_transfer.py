"""Images between processes that are killed half-way, over a disk that is too small: each ends right.

The agents' own handlers, stores and caches, in processes of their own and without TLS.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from vdc.api.client import ApiClient
from vdc.api.endpoints import Endpoint
from vdc.api.upload import send_blob
from vdc.images.blobs import BlobStore
from vdc.images.chunks import CHUNK_BYTES
from vdc.model.image import Blob, Image, ImageEntry, ImageKind
from vdc.model.units import MIB

SCRIPT = Path(__file__).with_name("image_host.py")
CONTENT = random.Random(5).randbytes(48 * MIB + 7)
BLOB = Blob(digest="sha256:" + hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT))
SLOW = 24 * MIB  # bytes per second: two seconds for all of it


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Host:
    """A host's store, and the process that serves it while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = BlobStore(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[str] | None = None

    def start(self, bytes_per_s: int = 0) -> Host:
        arguments = [sys.executable, str(SCRIPT), "serve", str(self.folder), str(self.port), str(bytes_per_s)]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"
        return self

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @property
    def has_it(self) -> bool:
        return self.store.has(BLOB.digest) and self.store.path(BLOB.digest).read_bytes() == CONTENT

    @property
    def leftovers(self) -> list[str]:
        return [path.name for path in self.store.folder.glob(".*")]

    @property
    def fetched_bytes(self) -> int:
        try:
            return self.store.fetch_path(BLOB.digest).stat().st_blocks * 512
        except FileNotFoundError:
            return 0


async def stream(content: bytes) -> AsyncIterator[bytes]:
    for place in range(0, len(content), MIB):
        yield content[place : place + MIB]


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[list[Host]]:
    """The first two hold the blob."""
    made = [Host(tmp_path / name) for name in ("h1", "h2", "h3")]
    for host in made[:2]:
        await host.store.write(BLOB.digest, stream(CONTENT))
    yield made
    for host in made:
        host.kill()


@pytest.fixture
def entry(hosts: list[Host], tmp_path: Path) -> Path:
    chunks = {BLOB.digest: hosts[0].store.chunk_list(BLOB.digest).digest}
    image = Image(kind=ImageKind.DISK, disk=BLOB)
    path = tmp_path / "entry.json"
    path.write_text(ImageEntry(digest="sha256:" + "a" * 64, image=image, chunks=chunks).to_json())
    return path


def fetching(host: Host, entry: Path, *peers: Host) -> subprocess.Popen[str]:
    urls = [peer.url for peer in peers]
    arguments = [sys.executable, str(SCRIPT), "fetch", str(host.folder), str(entry), *urls]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, complaint = process.communicate(timeout=60)
    return process.returncode, complaint


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_agent_killed_half_way_goes_on_after_its_restart(hosts: list[Host], entry: Path) -> None:
    h1, _, h3 = hosts
    h1.start(SLOW)
    process = fetching(h3, entry, h1)
    await until(lambda: h3.fetched_bytes >= 16 * MIB)
    process.kill()
    process.communicate()
    assert not h3.store.has(BLOB.digest) and h3.fetched_bytes >= 16 * MIB
    h1.kill()
    # What the second attempt asks for is less than the whole by what the first one has brought.
    h1.start()
    kept = h3.fetched_bytes
    assert ended(fetching(h3, entry, h1)) == (0, "")
    assert h3.has_it and h3.leftovers == [] and kept >= 4 * CHUNK_BYTES


async def test_a_peer_killed_half_way_is_replaced_by_the_other(hosts: list[Host], entry: Path) -> None:
    h1, h2, h3 = hosts
    h1.start(SLOW)
    h2.start(SLOW)
    process = fetching(h3, entry, h1, h2)
    await until(lambda: h3.fetched_bytes >= 12 * MIB)
    h1.kill()
    assert ended(process) == (0, "")
    assert h3.has_it and h3.leftovers == []


async def test_the_only_peer_killed_half_way_is_told_and_its_return_ends_it(
    hosts: list[Host], entry: Path
) -> None:
    h1, _, h3 = hosts
    h1.start(SLOW)
    process = fetching(h3, entry, h1)
    await until(lambda: h3.fetched_bytes >= 12 * MIB)
    h1.kill()
    status, complaint = ended(process)
    assert status == 3 and complaint.startswith("image-unavailable") and h1.url in complaint
    assert not h3.store.has(BLOB.digest) and h3.fetched_bytes >= 8 * MIB
    h1.start()
    assert ended(fetching(h3, entry, h1)) == (0, "")
    assert h3.has_it and h3.leftovers == []


async def test_a_peer_whose_disk_rots_is_found_out(hosts: list[Host], entry: Path) -> None:
    h1, h2, h3 = hosts
    with h1.store.path(BLOB.digest).open("r+b") as file:
        for chunk in range(0, 12, 2):
            file.seek(chunk * CHUNK_BYTES + 99)
            file.write(b"rotten")
    h1.start(SLOW)
    h2.start(SLOW)
    status, complaint = ended(fetching(h3, entry, h1, h2))
    assert status == 0 and h3.has_it and h3.leftovers == []
    assert f"{h1.url} sent something else" in complaint and f"{h2.url} sent" not in complaint


async def test_an_import_goes_on_after_its_agent_was_killed(hosts: list[Host]) -> None:
    h3 = hosts[2].start()
    places: list[int] = []
    begun = asyncio.Event()

    async def content(first: int) -> AsyncIterator[bytes]:
        places.append(first)
        async for piece in stream(CONTENT[first:]):
            yield piece
            if not begun.is_set():
                await asyncio.sleep(0.05)

    async with ApiClient([Endpoint(h3.url, h3.url)]) as api:
        importing = asyncio.create_task(send_blob(api, BLOB, content))
        await until(lambda: h3.store.received(BLOB.digest) >= 8 * MIB)
        h3.kill()
        begun.set()
        h3.start()
        assert await importing
    assert h3.has_it and h3.leftovers == []
    assert places[0] == 0 and places[-1] >= 8 * MIB


@pytest.fixture
def small_disk(hosts: list[Host]) -> Iterator[Path]:
    """h3's: 32 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root (mount)")
    folder = hosts[2].folder
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], check=True, timeout=10)
    try:
        yield folder
    finally:
        hosts[2].kill()
        subprocess.run(["umount", str(folder)], check=True, timeout=10)


async def test_a_host_with_a_full_disk_says_so_and_keeps_nothing(
    hosts: list[Host], entry: Path, small_disk: Path
) -> None:
    h1, _, h3 = hosts
    h1.start()
    status, complaint = ended(fetching(h3, entry, h1))
    assert status == 3 and complaint.startswith("no-space") and h3.leftovers == []
    subprocess.run(["mount", "-o", "remount,size=96m", str(small_disk)], check=True, timeout=10)
    assert ended(fetching(h3, entry, h1)) == (0, "")
    assert h3.has_it


async def test_a_disk_that_others_fill_meanwhile_is_not_filled_to_the_end(
    hosts: list[Host], entry: Path, small_disk: Path
) -> None:
    h1, _, h3 = hosts
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True, timeout=10)
    h1.start(SLOW)
    process = fetching(h3, entry, h1)
    await until(lambda: h3.fetched_bytes >= 8 * MIB)
    (small_disk / "guest").write_bytes(bytes(30 * MIB))
    status, complaint = ended(process)
    assert status == 3 and complaint.startswith("no-space")
    assert h3.leftovers == [] and not h3.store.has(BLOB.digest)
    (small_disk / "guest").unlink()
    assert ended(fetching(h3, entry, h1)) == (0, "")
    assert h3.has_it
