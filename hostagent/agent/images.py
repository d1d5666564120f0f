"""Every host keeps every image: the next secondary must not depend on a host that just died."""

from __future__ import annotations

import asyncio

from hostagent.supervisor.host import HostContext
from vdc.model.errors import VdcError
from vdc.model.image import ImageEntry
from vdc.store import keys
from vdc.store.protocol import Put, Unchanged

RETRY_S = 5.0


async def keep_images(host: HostContext) -> None:
    """Fetch what is missing and say so in the image's record; never returns."""
    changed = asyncio.Event()
    unsubscribe = host.mirror.subscribe(
        lambda key: changed.set() if not key or key.startswith(keys.IMAGES) else None
    )
    changed.set()
    try:
        while True:
            await changed.wait()
            changed.clear()
            for digest in [
                d for d, found in host.mirror.images.items() if host.name not in found.value.hosts
            ]:
                try:
                    await ensure_image(host, digest)
                except VdcError as error:
                    host.log.warning("an image could not be fetched", digest=digest, why=str(error))
                    asyncio.get_running_loop().call_later(RETRY_S, changed.set)
    finally:
        unsubscribe()


async def ensure_image(host: HostContext, digest: str) -> ImageEntry:
    """Make the image present here and record that it is. Raises as ImageCache.ensure."""
    found = host.mirror.images[digest]
    await host.ensure_image(found.value)
    if host.name in found.value.hosts:
        return found.value
    entry = found.value.with_(hosts=tuple(sorted({*found.value.hosts, host.name})))
    key = keys.image(digest)
    await host.store.commit([Unchanged(key, found.revision)], [Put(key, entry.to_json())])
    return entry
