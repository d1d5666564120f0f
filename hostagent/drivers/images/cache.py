"""Makes an image present on this host before a guest starts from it.

A blob is fetched once however many guests wait for it. A waiter that is cancelled leaves the others theirs; the last
one to go ends the transfer. What has come stays until the next attempt, of this agent or of the one after it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import aiohttp

from hostagent.drivers.images.bandwidth import Bandwidth
from hostagent.drivers.images.fetch import Fetch, Patience, fetch_list
from hostagent.drivers.process.foreign import open_foreign
from vdc.images.assembly import Assembly
from vdc.images.blobs import BlobStore
from vdc.images.stored import check_image
from vdc.images.writing import in_thread
from vdc.model.errors import InvalidError, RefusedError, UnavailableError
from vdc.model.image import Blob, Image, ImageEntry

_LOG = logging.getLogger(__name__)
_READ_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class ImagePaths:
    """Where an image's files are on this host; None for those that it does not have."""

    disk: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None


@dataclass(slots=True)
class _Transfer:
    task: asyncio.Task[None]
    peers: frozenset[str]
    waiters: int = 0


class ImageCache:
    """The driver; one per agent, on the session to the other agents."""

    def __init__(
        self,
        store: BlobStore,
        sessions: Callable[[], aiohttp.ClientSession],
        *,
        bandwidth: Bandwidth | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._bandwidth = bandwidth or Bandwidth()
        self._patience = patience or Patience()
        self._transfers: dict[str, _Transfer] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}  # cancelled, and not over yet

    def is_present(self, image: Image) -> bool:
        """Whether every file of the image is here."""
        return all(self._store.has(blob.digest) for blob in image.blobs)

    def paths(self, image: Image) -> ImagePaths:
        """Where the image's files are, or will be."""
        return ImagePaths(
            **{
                part: self._store.path(blob.digest)
                for part in ("disk", "kernel", "initrd")
                if (blob := getattr(image, part)) is not None
            }
        )

    async def take(
        self, path: Path, image: Image, part: Literal["disk", "memory"] = "disk"
    ) -> tuple[Image, dict[str, str]]:
        """Copy a guest's file into the store, as this part of `image`; that image, and its chunk lists.

        The copy is what is looked at: whoever wrote the file may go on. Raises as BlobStore.write and check_image.
        """
        file = await asyncio.to_thread(open_foreign, path)
        try:
            size_bytes = os.fstat(file.fileno()).st_size
            blob = await self._store.add(_contents(file), size_bytes)
        finally:
            file.close()
        made = image.with_(**{part: blob})
        try:
            await asyncio.to_thread(check_image, self._store, made)
        except InvalidError:
            self._store.remove(blob.digest)
            raise
        chunks = await in_thread(lambda: self._store.chunk_lists(made), self._store.folder)
        return made, chunks

    async def ensure(self, entry: ImageEntry, peers: Sequence[str]) -> ImagePaths:
        """Fetch what is missing from `peers` (API base URLs of hosts that hold the image), return the files.

        Raises RefusedError (no-space) where the missing files do not fit, before the first byte where that can be
        known, UnavailableError (image-unavailable) where no peer could send one of them.
        """
        for blob in {blob.digest: blob for blob in entry.image.blobs}.values():
            if not self._store.has(blob.digest):
                await self._fetched(blob, entry.chunks.get(blob.digest), tuple(peers))
        return self.paths(entry.image)

    async def _fetched(self, blob: Blob, expected: str | None, peers: tuple[str, ...]) -> None:
        """Wait for the one transfer of this blob; for one of our own where another, of other peers, fails."""
        running = self._transfers.get(blob.digest)
        if running is not None:
            try:
                return await self._joined(blob.digest, running)
            except UnavailableError:
                if running.peers >= set(peers):
                    raise
        running = self._transfers.get(blob.digest) or self._started(blob, expected, peers)
        await self._joined(blob.digest, running)

    def _started(self, blob: Blob, expected: str | None, peers: tuple[str, ...]) -> _Transfer:
        work = self._fetch(blob, expected, peers)
        task = asyncio.create_task(work, name=f"image-{blob.digest[7:19]}")
        transfer = self._transfers[blob.digest] = _Transfer(task, frozenset(peers))
        task.add_done_callback(lambda _: self._forget(blob.digest, transfer))
        return transfer

    def _forget(self, digest: str, transfer: _Transfer) -> None:
        if self._transfers.get(digest) is transfer:
            del self._transfers[digest]

    async def _joined(self, digest: str, transfer: _Transfer) -> None:
        transfer.waiters += 1
        try:
            await asyncio.shield(transfer.task)
        finally:
            transfer.waiters -= 1
            if transfer.waiters == 0 and not transfer.task.done():
                self._forget(digest, transfer)  # nobody may join what is being cancelled
                self._ending[digest] = transfer.task
                transfer.task.cancel()
                await asyncio.wait({transfer.task})
                if self._ending.get(digest) is transfer.task:
                    del self._ending[digest]

    async def _fetch(self, blob: Blob, expected: str | None, peers: tuple[str, ...]) -> None:
        if (ending := self._ending.get(blob.digest)) is not None:
            await asyncio.wait({ending})
        session = self._sessions()
        chunks = await fetch_list(session, blob, expected, peers, self._patience)
        assembly = Assembly(self._store, blob, chunks)
        fetch = Fetch(session, assembly, self._bandwidth, self._patience)
        try:
            await in_thread(assembly.open, self._store.folder)
            await fetch.run(peers)
        except (InvalidError, RefusedError):
            assembly.discard()
            raise
        finally:
            await in_thread(assembly.close, self._store.folder)
        _LOG.info("%s (%d bytes) came from %s", blob.digest, blob.size_bytes, ", ".join(fetch.contributors))


async def _contents(file: BinaryIO) -> AsyncIterator[bytes]:
    while content := await asyncio.to_thread(file.read, _READ_BYTES):
        yield content
