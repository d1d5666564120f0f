"""The part of the client that is about images and their files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TypeVar

from vdc.api import models as wire
from vdc.api.call import BodyFactory, Call, make_call
from vdc.api.transport import BUSY, RECEIVED, Transport
from vdc.model.base import Record
from vdc.model.errors import BugError, UnavailableError
from vdc.model.image import Image

R = TypeVar("R", bound=Record)

BLOB_CHUNK_BYTES = 1024**2
BLOB_PATIENCE_S = 300.0  # for writing all of a blob out
REGISTER_PATIENCE_S = 300.0  # for reading all of an image, where its chunk lists are not known


@dataclass(frozen=True, slots=True)
class BlobState:
    """How much of a blob a host holds; `is_busy`: somebody sends it now."""

    is_whole: bool
    received: int = 0
    is_busy: bool = False


class ImageCalls(ABC):
    """One method per route; of `ApiClient`."""

    transport: Transport

    @abstractmethod
    async def _call(self, model: type[R], call: Call) -> R: ...

    async def list_images(self) -> wire.ImageList:
        """All images."""
        return await self._call(wire.ImageList, make_call("list_images"))

    async def register_image(self, name: str, image: Image, *, source: str = "") -> wire.Acknowledged:
        """Name an image whose blobs are on the answering host. `source`: where it came from."""
        body = wire.ImageRegistration(name=name, image=image, source=source[:512]).to_json()
        call = make_call("register_image", json_body=body, first_byte_s=REGISTER_PATIENCE_S)
        return await self._call(wire.Acknowledged, call)

    async def remove_image(self, name: str) -> wire.Acknowledged:
        """Remove a name, or all of the image with this digest; the content goes with the last one."""
        call = make_call("remove_image", query={"name": name}, first_byte_s=30.0)
        return await self._call(wire.Acknowledged, call)

    async def prune_images(self, *, named: bool, dry_run: bool = False) -> wire.PruneReport:
        """Remove images that no VM is made of (with `named` also those that have names), and unfinished uploads."""
        body = wire.PruneRequest(named=named, dry_run=dry_run).to_json()
        return await self._call(
            wire.PruneReport, make_call("prune_images", json_body=body, first_byte_s=60.0)
        )

    async def has_blob(self, digest: str) -> bool:
        """Whether the answering host holds the blob."""
        return (await self.blob_state(digest)).is_whole

    async def blob_state(self, digest: str) -> BlobState:
        """How much of a blob the answering host holds."""
        status, headers = await self.transport.head(make_call("has_blob", {"digest": digest}))
        received = headers.get(RECEIVED, "0")
        if status not in (200, 204, 404, 503) or not received.isdecimal():
            raise BugError(f"the agent answered HEAD of a blob with {status}", code="bad-answer")
        if status == 503:
            raise UnavailableError("the agent is not ready", code="not-ready")
        return BlobState(status != 404, int(received), BUSY in headers)

    async def read_blob(self, digest: str) -> AsyncGenerator[bytes, None]:
        """The content of a blob in chunks; the caller checks its digest (BlobStore.write does)."""
        call = make_call("read_blob", {"digest": digest}, first_byte_s=30.0)
        async with self.transport.open(call) as response:
            async for chunk in response.content.iter_chunked(BLOB_CHUNK_BYTES):
                yield chunk

    async def write_blob(
        self, digest: str, chunks: BodyFactory, size_bytes: int, *, first: int | None = None
    ) -> wire.BlobReceipt:
        """Upload a blob, or its rest from the byte `first` on. `chunks` begins the body anew each time it is called.

        With `first` the agent keeps what arrives (vdc.api.upload goes on with it).
        """
        call = make_call(
            "write_blob", {"digest": digest}, body=chunks, size_bytes=size_bytes, first_byte=first,
            first_byte_s=BLOB_PATIENCE_S,
        )  # fmt: skip
        return await self._call(wire.BlobReceipt, call)
