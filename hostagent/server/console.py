"""A guest's serial console over a websocket: QEMU's unix socket on the primary's host, bytes both ways."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

from hostagent.drivers.process.foreign import stream_foreign
from hostagent.drivers.process.users import GUEST_DIR
from hostagent.drivers.qemu.spec import CONSOLE_SOCKET
from hostagent.server.context import ServerContext
from hostagent.server.identity import person_of
from hostagent.server.relay import accept, first_of, relay, running_host
from vdc.model.errors import UnavailableError

CHUNK = 4096


class ConsoleHandler:
    """Serves the console on the primary's host; other hosts pass it through."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def endophyte_console(self, request: web.Request) -> web.StreamResponse:
        """See the route table."""
        name = request.match_info["name"]
        host = await running_host(self._context.host, name)
        if host != self._context.host.name:
            async with self._context.peer(host, person_of(request)).endophyte_console(name) as onward:
                socket = await accept(request)
                await relay(socket, onward)
            return socket
        path = self._context.host.vms_dir / name / GUEST_DIR / CONSOLE_SOCKET
        try:
            reader, writer = await stream_foreign(path)
        except OSError as error:
            raise UnavailableError(f"the console of {name} cannot be opened: {error.strerror}") from error
        socket = await accept(request)
        await _pump(socket, reader, writer)
        return socket


async def _pump(
    socket: web.WebSocketResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    async def outward() -> None:
        while data := await reader.read(CHUNK):
            await socket.send_bytes(data)

    async def inward() -> None:
        async for message in socket:
            if message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                writer.write(message.data if isinstance(message.data, bytes) else message.data.encode())
                await writer.drain()

    try:
        await first_of(outward(), inward())
    finally:
        writer.close()
        await socket.close()
