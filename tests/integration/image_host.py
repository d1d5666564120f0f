"""One host of the image store as a process of its own, to be killed: what its agent serves, and what it fetches.

image_host.py serve FOLDER PORT BYTES_PER_S
image_host.py fetch FOLDER ENTRY_FILE URL...
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp import web

from hostagent.drivers.images import Bandwidth, ImageCache
from hostagent.drivers.images.fetch import Patience
from hostagent.server.blobs import BlobHandlers
from hostagent.server.http import errors_as_problems
from vdc.api.routes import BY_NAME
from vdc.images.blobs import BlobStore
from vdc.model.errors import VdcError
from vdc.model.image import ImageEntry

ROUTES = ("has_blob", "read_blob", "read_chunks", "write_blob")


async def serve(folder: Path, port: int, bytes_per_s: int) -> None:
    context: Any = SimpleNamespace(blobs=BlobStore(folder), bandwidth=Bandwidth(lambda: bytes_per_s))
    handlers = BlobHandlers(context)
    app = web.Application(middlewares=[errors_as_problems])  # type: ignore[list-item]
    for name in ROUTES:
        route = BY_NAME[name]
        options = {"allow_head": False} if route.method == "GET" else {}
        add = app.router.add_get if route.method == "GET" else app.router.add_route
        arguments = (route.path,) if route.method == "GET" else (route.method, route.path)
        add(*arguments, getattr(handlers, name), **options)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def fetch(folder: Path, entry: ImageEntry, urls: list[str]) -> None:
    async with aiohttp.ClientSession() as session:
        cache = ImageCache(BlobStore(folder), lambda: session, patience=Patience(stall_s=2.0))
        await cache.ensure(entry, urls)


def main() -> int:
    what, folder = sys.argv[1], Path(sys.argv[2])
    try:
        if what == "serve":
            asyncio.run(serve(folder, int(sys.argv[3]), int(sys.argv[4])))
        else:
            asyncio.run(fetch(folder, ImageEntry.from_json(Path(sys.argv[3]).read_text()), sys.argv[4:]))
    except VdcError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
