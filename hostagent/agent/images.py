"""Every host keeps every image: the next secondary must not depend on a host that just died.

Content goes when the last image that needs it has gone (`vdc image rm`, or vdc/control/images.py). Only what was seen
as part of an image is ever removed: a blob that nothing names yet may be an upload that is about to be registered.
"""

from __future__ import annotations

import asyncio

from hostagent.supervisor.host import HostContext
from vdc.images.blobs import BlobStore
from vdc.model.errors import VdcError
from vdc.model.image import ImageEntry
from vdc.store import keys
from vdc.store.protocol import Put, Unchanged

RETRY_S = 5.0


class ImageKeeper:
    """Keeps this host's blobs in step with the images' records."""

    def __init__(self, host: HostContext, blobs: BlobStore) -> None:
        self._host = host
        self._blobs = blobs
        self._changed = asyncio.Event()
        self._seen: set[str] = set()  # digests of blobs that images named

    async def run(self) -> None:
        """Never returns."""
        unsubscribe = self._host.mirror.subscribe(self._on_change)
        self._changed.set()
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._fetch_missing()
                self._remove_unneeded()
        finally:
            unsubscribe()

    def _on_change(self, key: str) -> None:
        if not key or key.startswith(keys.IMAGES):
            self._changed.set()

    async def _fetch_missing(self) -> None:
        mirror, me = self._host.mirror, self._host.name
        for digest in [d for d, found in mirror.images.items() if me not in found.value.hosts]:
            try:
                await self._fetch(digest)
            except (
                VdcError,
                OSError,
            ) as error:  # OSError: a disk that fails; the agent has guests to look after
                self._host.log.warning("an image could not be fetched", digest=digest, why=str(error))
                asyncio.get_running_loop().call_later(RETRY_S, self._changed.set)

    async def _fetch(self, digest: str) -> None:
        """Make the image present here and record that it is; somebody else's change of the record comes again."""
        found = self._host.mirror.images.get(digest)
        if found is None:
            return
        await self._host.ensure_image(found.value)
        entry: ImageEntry = found.value.with_(hosts=tuple(sorted({*found.value.hosts, self._host.name})))
        key = keys.image(digest)
        await self._host.store.commit([Unchanged(key, found.revision)], [Put(key, entry.to_json())])

    def _remove_unneeded(self) -> None:
        needed = {
            blob.digest for found in self._host.mirror.images.values() for blob in found.value.image.blobs
        }
        for digest in self._seen - needed:
            if self._blobs.remove(digest):
                self._host.log.info("removed the content of an image that is gone", digest=digest)
        self._seen = needed
