"""Makes an image present on this host before a guest starts from it.

A blob is fetched once however many guests wait for it. A waiter that is cancelled leaves the others theirs;
the last one to go ends the transfer, and then nothing of it is left. Content that does not match its digest
is never stored: the blob is then asked of each peer alone, as a mixed stream does not tell who was wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from hostagent.drivers.images.peers import CONNECT_S, STALL_S, PeerReader
from vdc.images.blobs import BlobStore
from vdc.model.errors import InvalidError, RefusedError, UnavailableError
from vdc.model.image import Blob, Image
from vdc.model.units import format_size

_LOG = logging.getLogger(__name__)


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
        connect_s: float = CONNECT_S,
        stall_s: float = STALL_S,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._connect_s = connect_s
        self._stall_s = stall_s
        self._transfers: dict[str, _Transfer] = {}

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

    async def ensure(self, image: Image, peers: Sequence[str]) -> ImagePaths:
        """Fetch what is missing from `peers` (API base URLs of hosts that hold the image), return the files.

        Raises RefusedError (no-space) before the first byte where the missing files do not fit,
        UnavailableError (image-unavailable) where no peer could send one of them.
        """
        missing = {blob.digest: blob for blob in image.blobs if not self._store.has(blob.digest)}
        if missing:
            await asyncio.to_thread(self._check_space, list(missing.values()))
            for blob in missing.values():
                await self._fetched(blob, tuple(peers))
        return self.paths(image)

    def _check_space(self, blobs: Sequence[Blob]) -> None:
        needed, free = sum(blob.size_bytes for blob in blobs), self._store.usage().free_bytes
        if needed > free:
            figures = f"it needs {format_size(needed)} and {format_size(free)} are free"
            raise RefusedError(
                f"there is no space for the image: {figures}",
                hint="remove images (vdc image rm) or grow the disk",
                code="no-space",
            )

    async def _fetched(self, blob: Blob, peers: tuple[str, ...]) -> None:
        """Wait for the one transfer of this blob; for one of our own where another, of other peers, fails."""
        running = self._transfers.get(blob.digest)
        if running is not None:
            try:
                return await self._joined(blob.digest, running)
            except UnavailableError:
                if running.peers >= set(peers):
                    raise
        await self._joined(blob.digest, self._transfers.get(blob.digest) or self._started(blob, peers))

    def _started(self, blob: Blob, peers: tuple[str, ...]) -> _Transfer:
        task = asyncio.create_task(self._fetch(blob, peers), name=f"image-{blob.digest[7:19]}")
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
                transfer.task.cancel()
                await asyncio.wait({transfer.task})

    async def _fetch(self, blob: Blob, peers: tuple[str, ...]) -> None:
        """All peers as one source; after content that was wrong, each of them alone."""
        try:
            await self._store_from(blob, peers)
            return
        except InvalidError as error:
            _LOG.warning("%s came damaged: %s", blob.digest, error)
            reasons = [str(error)]
        for peer in peers:
            try:
                await self._store_from(blob, (peer,))
                return
            except (InvalidError, UnavailableError) as error:
                reasons.append(f"{peer}: {error}")
        raise UnavailableError(
            f"no host could send {blob.digest} undamaged: {'; '.join(reasons)}",
            hint="import the image again",
            code="image-unavailable",
        )

    async def _store_from(self, blob: Blob, peers: tuple[str, ...]) -> None:
        reader = PeerReader(self._sessions(), blob, connect_s=self._connect_s, stall_s=self._stall_s)
        async with aclosing(reader.read(peers)) as chunks:
            await self._store.write(blob.digest, chunks, blob.size_bytes)
        _LOG.info("%s (%d bytes) came from %s", blob.digest, blob.size_bytes, ", ".join(reader.contributors))
