"""Images that were built on this machine, known to the lab from its first moment.

Their content is copied into each host's own store before its agent starts, so that none of it has to travel
over the lab's networks. Copies, not links: a host whose store is damaged must not damage another one's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

from vdc.api.client import ApiClient
from vdc.images.blobs import BlobStore
from vdc.images.sources import RECIPE_FILE, ImportPlan, plan_recipe
from vdc.lab.kernel import in_thread
from vdc.lab.plan import HostPlan, LabPlan
from vdc.lab.settings import Settings
from vdc.model.errors import VdcError

STORE = "images"  # in a host's state folder
_PLACED = ("container", "mini")  # of the recipes; large ones are imported where they are wanted
_CHUNK_BYTES = 1024**2


async def place_images(
    plan: LabPlan, settings: Settings, progress: Callable[[str], None]
) -> tuple[ImportPlan, ...]:
    """Put the built images into every host's store; one that cannot be used is reported and left out."""
    usable = []
    built = (settings.cache_root / "images" / name / "current" / RECIPE_FILE for name in _PLACED)
    for recipe in filter(Path.is_file, built):
        try:
            usable.append(await in_thread(partial(plan_recipe, recipe.parent.resolve())))
        except VdcError as error:
            progress(f"{recipe.parent} is left out: {error}")
    async with asyncio.TaskGroup() as group:
        for host in plan.guest_hosts:
            group.create_task(_fill(host, usable), name=f"lab-images-{host.name}")
    return tuple(usable)


async def register_images(
    plan: LabPlan, images: Sequence[ImportPlan], progress: Callable[[str], None]
) -> None:
    """Name the placed images in the cluster."""
    async with ApiClient([f"unix://{plan.hosts[0].api_socket}"]) as client:
        for image in images:
            await client.register_image(image.name, image.image)
            progress(f"image {image.name} is there")


async def _fill(host: HostPlan, images: Sequence[ImportPlan]) -> None:
    store = BlobStore(host.state_dir / STORE)
    for image in images:
        for blob, path in image.files:
            await store.write(blob.digest, _chunks(path), blob.size_bytes)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
