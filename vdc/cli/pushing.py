"""From a host's image store to a registry, a layout or an archive."""

from __future__ import annotations

import asyncio
import hashlib

from vdc.api.client import ApiClient
from vdc.api.models import ImageView
from vdc.cli.kinds import IMAGE
from vdc.cli.progress import StatusLine
from vdc.images.oci.layout import LayerWriter
from vdc.images.oci.push import Destination, Push
from vdc.images.oci.pushed import members
from vdc.images.oci.registries import RegistryOptions
from vdc.model.errors import InvalidError, UnavailableError, VdcError
from vdc.model.image import Blob


async def push(
    api: ApiClient, reference: str, destination: Destination, options: RegistryOptions, line: StatusLine
) -> ImageView:
    """Push an image by its name or digest; its record.

    Raises NotFoundError (`image-not-found`), UnavailableError (`image-unavailable`) where no host that answers has it,
    and as `Push`.
    """
    entry: ImageView = await IMAGE.get(api, reference)
    async with await _holder(api, entry) as host:
        with Push(destination, options, entry.image).prepared() as work:
            with work.layout.new_layer() as (writer, path):
                for name, blob in members(entry.image).items():
                    await _copy(host, name, blob, writer, line)
                layer = await asyncio.to_thread(writer.finish)
                writer.close()
                work.layout.add(entry.image, layer, path, work.tag)
            await asyncio.to_thread(work.finish, line.bytes)
    return entry


async def _holder(api: ApiClient, entry: ImageView) -> ApiClient:
    """A client of one host that has all of it."""
    transport = api.transport
    for endpoint in transport.endpoints:
        host = ApiClient([endpoint], deadlines=transport.deadlines, credentials=transport.credentials)
        try:
            if all([await host.has_blob(blob.digest) for blob in entry.image.blobs]):
                return host
        except VdcError:
            pass  # another one may answer
        await host.close()
    raise UnavailableError(
        f"no host of this context that answers has all of {entry.digest[:19]}",
        hint=f"it is on {', '.join(entry.hosts)}",
        code="image-unavailable",
    )


async def _copy(host: ApiClient, name: str, blob: Blob, writer: LayerWriter, line: StatusLine) -> None:
    """One file out of the store, checked on the way."""
    writer.begin(name, blob.size_bytes)
    digest, done = hashlib.sha256(), 0
    async for content in host.read_blob(blob.digest):
        digest.update(content)
        done += len(content)
        if done > blob.size_bytes:
            break
        await asyncio.to_thread(writer.write, content)
        line.bytes(f"reading {name.rpartition('/')[2]}", done, blob.size_bytes)
    if done != blob.size_bytes or "sha256:" + digest.hexdigest() != blob.digest:
        raise InvalidError(
            f"what the host sent is not {blob.digest}",
            hint="try again, or another host",
            code="digest-mismatch",
        )
