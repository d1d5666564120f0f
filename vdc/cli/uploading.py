"""Sending what an import plan names to one host, and naming it there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

from vdc.api.client import ApiClient
from vdc.api.upload import send_blob
from vdc.cli.progress import StatusLine
from vdc.images.sources import ImportPlan
from vdc.model.errors import ConflictError

_READ_BYTES = 1024**2
_ATTEMPTS = 3  # a host may tidy up what it has had for long, just before it is named


async def upload(api: ApiClient, plan: ImportPlan, line: StatusLine, *, source: str = "") -> int:
    """Send what the host does not hold yet, then name the image; returns how many files were sent."""
    sent: set[str] = set()
    async with await api.pinned() as host:
        for attempt in range(1, _ATTEMPTS + 1):
            for blob, path in plan.files:
                if await send_blob(host, blob, _reader(path, blob.size_bytes, line)):
                    sent.add(blob.digest)
            try:
                await host.register_image(plan.name, plan.image, source=source)
                break
            except ConflictError as error:
                if error.code != "blob-missing" or attempt == _ATTEMPTS:
                    raise
    return len(sent)


def _reader(path: Path, size_bytes: int, line: StatusLine) -> Callable[[int], AsyncIterator[bytes]]:
    async def content(first: int) -> AsyncIterator[bytes]:
        done = first
        with path.open("rb") as file:
            file.seek(first)
            while chunk := file.read(_READ_BYTES):
                done += len(chunk)
                line.bytes(f"sending {path.name}", done, size_bytes)
                yield chunk

    return content
