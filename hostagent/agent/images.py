"""Every host keeps every image: the next secondary must not depend on a host that just died.

Content goes when the last image that needs it has gone (`vdc image rm`, or vdc/control/images.py). Only what was seen
as part of an image goes at once: a blob that nothing names may be an upload that is about to be registered, or the
records of a store that is being replaced. Such a blob goes after `UNNAMED_S`, and never while a guest's disk here
stands on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from hostagent.drivers.images.bandwidth import BYTES_PER_MBIT
from hostagent.supervisor.host import HostContext
from hostagent.supervisor.node import NodeContext
from vdc.api.models import Check, HostSweep
from vdc.images.blobs import BlobStore
from vdc.model.errors import VdcError
from vdc.model.image import ImageEntry
from vdc.model.units import format_size
from vdc.store import keys
from vdc.store.protocol import Put, Unchanged

RETRY_S = 5.0
TIDY_EVERY_S = 600.0
UNNAMED_S = 86_400.0  # a blob that no image names, and an upload that does not grow
RECENT_S = 600.0  # `vdc image prune` leaves alone what is younger: an import may be at it


class ImageKeeper:
    """Keeps this host's blobs in step with the images' records. `bases`: what its guests' disks stand on, by digest."""

    def __init__(
        self, host: HostContext, blobs: BlobStore, bases: Callable[[], Collection[str]] = frozenset
    ) -> None:
        self._host = host
        self._blobs = blobs
        self._bases = bases
        self._changed = asyncio.Event()
        self._seen: set[str] = set()  # digests of blobs that images named
        self._unnamed_since_s: dict[str, float] = {}
        self.problems: dict[str, VdcError | OSError] = {}  # why an image is not here, by its digest

    async def run(self) -> None:
        """Never returns."""
        unsubscribe = self._host.mirror.subscribe(self._on_change)
        self._changed.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(), name="image records")
                group.create_task(self._keep_tidy(), name="image store")
        finally:
            unsubscribe()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._remove_unneeded()
            await self._fetch_missing()

    async def _keep_tidy(self) -> None:
        while True:
            await self.tidy()
            await asyncio.sleep(TIDY_EVERY_S)
            self._changed.set()  # what was lost from the disk is fetched again

    def _on_change(self, key: str) -> None:
        if not key or key.startswith(keys.IMAGES):
            self._changed.set()

    # ---- fetching

    async def _fetch_missing(self) -> None:
        images, me = self._host.mirror.images, self._host.name
        self.problems = {digest: why for digest, why in self.problems.items() if digest in images}
        for digest, found in list(images.items()):
            if me in found.value.hosts and self._host.images.is_present(found.value.image):
                continue
            try:
                await self._fetch(digest)
            except (
                VdcError,
                OSError,
            ) as error:  # OSError: a disk that fails; the agent has guests to look after
                await self._failed(found.value, error)
                asyncio.get_running_loop().call_later(RETRY_S, self._changed.set)
            else:
                self.problems.pop(digest, None)

    async def _fetch(self, digest: str) -> None:
        """Make the image present here and record that it is; somebody else's change of the record comes again."""
        found = self._host.mirror.images.get(digest)
        if found is None:
            return
        await self._host.ensure_image(found.value)
        entry: ImageEntry = found.value.with_(hosts=tuple(sorted({*found.value.hosts, self._host.name})))
        key = keys.image(digest)
        if entry != found.value:
            await self._host.store.commit([Unchanged(key, found.revision)], [Put(key, entry.to_json())])

    async def _failed(self, entry: ImageEntry, error: VdcError | OSError) -> None:
        """Tell once, and again when the reason is another."""
        before, self.problems[entry.digest] = self.problems.get(entry.digest), error
        if _code(before) == _code(error):
            return
        what = entry.names[0] if entry.names else entry.digest[:19]
        await self._host.tell_of_node("image-missing", f"{self._host.name} has not got {what}: {error}")

    # ---- removing

    @property
    def _needed(self) -> set[str]:
        images = self._host.mirror.images.values()
        return {blob.digest for found in images for blob in found.value.image.blobs}

    def _remove_unneeded(self) -> None:
        needed = self._needed
        for digest in self._seen - needed - set(self._bases()):
            if self._blobs.remove(digest):
                self._host.log.info("removed the content of an image that is gone", digest=digest)
        self._seen = needed

    async def tidy(self) -> None:
        """Once: remove what crashes and abandoned imports left."""
        now_s, needed = self._host.clock.boottime_s(), self._needed | set(self._bases())
        here = await asyncio.to_thread(self._blobs.digests)
        since = self._unnamed_since_s
        self._unnamed_since_s = {d: since.get(d, now_s) for d in here if d not in needed}
        young = {d for d, at_s in self._unnamed_since_s.items() if now_s - at_s < UNNAMED_S}
        await self._sweep(needed | young, UNNAMED_S, is_dry=False)

    async def sweep_now(self, *, is_dry: bool) -> HostSweep:
        """For `vdc image prune`: what no image needs, unless it is new."""
        return await self._sweep(self._needed | set(self._bases()), RECENT_S, is_dry=is_dry)

    async def _sweep(self, needed: set[str], idle_s: float, *, is_dry: bool) -> HostSweep:
        try:
            swept = await asyncio.to_thread(self._blobs.sweep, needed, idle_s=idle_s, is_dry=is_dry)
        except OSError as error:
            self._host.log.warning("the image store cannot be tidied up", why=str(error))
            return HostSweep(host=self._host.name, problem=str(error))
        if swept.size_bytes and not is_dry:
            self._host.log.info(
                "removed what no image needs", blobs=list(swept.blobs), size_bytes=swept.size_bytes
            )
        return HostSweep(
            host=self._host.name, blobs=swept.blobs, unfinished=len(swept.unfinished), size_bytes=swept.size_bytes
        )  # fmt: skip

    # ---- for the doctor

    async def check(self) -> Check:
        """How full the store is, and what is not here."""
        try:
            usage = await asyncio.to_thread(self._blobs.usage)
        except OSError as error:
            return Check(name="images", level="error", sentence=f"the image store cannot be read: {error}")
        images, unfinished = self._host.mirror.images, usage.unfinished_bytes
        sentence = (
            f"{len(images)} images, {format_size(usage.size_bytes)} in {usage.blobs} files"
            f"{f', {format_size(unfinished)} unfinished' if unfinished else ''}; "
            f"{format_size(usage.free_bytes)} are left for more"
        )
        if not self.problems:
            return Check(name="images", level="ok", sentence=sentence)
        digest, why = next(iter(self.problems.items()))
        names = images[digest].value.names if digest in images else ()
        return Check(
            name="images",
            level="warning",
            sentence=f"{sentence}; {names[0] if names else digest[:19]} is not here: {why}",
            hint=why.problem.hint if isinstance(why, VdcError) else "",
        )


def image_bytes_per_s(host: NodeContext) -> int:
    """How fast images may travel now: slower while a guest of this host has, or gets, a second copy; 0: no limit."""
    busy = any(
        found.value.secondary is not None and host.name in (found.value.primary, found.value.secondary)
        for found in host.mirror.pairs.values()
    )
    return host.config.image_mbit * BYTES_PER_MBIT if busy else 0


def _code(error: VdcError | OSError | None) -> str:
    return error.code if isinstance(error, VdcError) else type(error).__name__
