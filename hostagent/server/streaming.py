"""Answers whose length nobody knows before their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import web


async def answer_stream(
    request: web.Request, pieces: AsyncIterator[bytes], *, stuck_s: float
) -> web.StreamResponse:
    """Send the pieces as one body; whoever takes none for `stuck_s` seconds is cut off.

    The first piece is waited for: whoever has nothing to say but an error is answered with that. After it an
    error can only break the connection off, so that no reader takes a part for the whole.
    """
    first = await anext(pieces, b"")
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    await response.prepare(request)
    try:
        await _write(response, first, stuck_s)
        async for piece in pieces:
            await _write(response, piece, stuck_s)
    except BaseException:
        if request.transport is not None:
            request.transport.abort()
        raise
    with suppress(ConnectionResetError):
        await response.write_eof()
    return response


async def _write(response: web.StreamResponse, piece: bytes, stuck_s: float) -> None:
    async with asyncio.timeout(stuck_s):
        await response.write(piece)
