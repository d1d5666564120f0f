"""What no unit test may do (touch the kernel's packet filter), and fixtures of several files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from image_peers import Start, image_peers

from hostagent.drivers.images import ImageCache
from hostagent.drivers.net import nft
from vdc.images.blobs import BlobStore


@pytest.fixture(autouse=True)
def _no_packet_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every script is accepted, no table is there."""
    monkeypatch.setattr(nft, "_run", lambda arguments, script="": "")


@pytest.fixture
async def start_peer() -> AsyncIterator[Start]:
    async with image_peers() as start:
        yield start


@pytest.fixture
async def http_session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def blob_store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


@pytest.fixture
def image_cache(blob_store: BlobStore, http_session: aiohttp.ClientSession) -> ImageCache:
    return ImageCache(blob_store, lambda: http_session)
