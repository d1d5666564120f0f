"""What no unit test may do (touch the kernel's packet filter), and fixtures of several files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostagent.drivers.net import nft

if TYPE_CHECKING:  # most tests have no need of these
    import aiohttp
    from image_peers import Start

    from hostagent.drivers.images import ImageCache
    from vdc.images.blobs import BlobStore


@pytest.fixture(autouse=True)
def _no_packet_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every script is accepted, no table is there."""
    monkeypatch.setattr(nft, "_run", lambda arguments, script="": "")


@pytest.fixture
async def start_peer() -> AsyncIterator[Start]:
    from image_peers import image_peers

    async with image_peers() as start:
        yield start


@pytest.fixture
async def http_session() -> AsyncIterator[aiohttp.ClientSession]:
    import aiohttp

    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def blob_store(tmp_path: Path) -> BlobStore:
    from vdc.images.blobs import BlobStore

    return BlobStore(tmp_path)


@pytest.fixture
def image_cache(blob_store: BlobStore, http_session: aiohttp.ClientSession) -> ImageCache:
    from hostagent.drivers.images import ImageCache

    return ImageCache(blob_store, lambda: http_session)
