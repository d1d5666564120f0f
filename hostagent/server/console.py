"""A guest's serial console over a websocket: QEMU's unix socket on the primary's host, bytes both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import aiohttp
from aiohttp import web

from hostagent.drivers.process.foreign import connect_foreign
from hostagent.drivers.process.users import GUEST_DIR
from hostagent.drivers.qemu.spec import CONSOLE_SOCKET
from hostagent.server import views
from hostagent.server.context import ServerContext
from hostagent.server.identity import person_of
from vdc.model.errors import ConflictError, UnavailableError

CHUNK = 4096


class ConsoleHandler:
    """Serves the console on the primary's host; other hosts pass it through."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def endophyte_console(self, request: web.Request) -> web.StreamResponse:
        """See the route table."""
        name, mirror = request.match_info["name"], self._context.host.mirror
        await views.find_endophyte(mirror, name)
        host = views.running_primary(mirror, name)
        if host is None:
            raise ConflictError(f"{name} does not run", code="not-running", hint=f"vdc start {name}")
        if host == self._context.host.name:
            path = self._context.host.vms_dir / name / GUEST_DIR / CONSOLE_SOCKET
            try:
                reader, writer = await asyncio.open_unix_connection(sock=await connect_foreign(path))
            except OSError as error:
                raise UnavailableError(f"the console of {name} cannot be opened: {error.strerror}") from error
            socket = await _accept(request)
            await _pump(socket, reader, writer)
            return socket
        async with self._context.peer(host, person_of(request)).endophyte_console(name) as onward:
            socket = await _accept(request)
            await _relay(socket, onward)
        return socket


async def _accept(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(heartbeat=10.0, max_msg_size=64 * 1024, compress=False)
    await socket.prepare(request)
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
        await _first_of(outward(), inward())
    finally:
        writer.close()
        await socket.close()


async def _relay(socket: web.WebSocketResponse, onward: aiohttp.ClientWebSocketResponse) -> None:
    async def outward() -> None:
        async for message in onward:
            if message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_bytes(message.data)

    async def inward() -> None:
        async for message in socket:
            if message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                data = message.data if isinstance(message.data, bytes) else message.data.encode()
                await onward.send_bytes(data)

    await _first_of(outward(), inward())
    await socket.close()


async def _first_of(*coroutines: Coroutine[None, None, None]) -> None:
    """Run all until one ends, then end the others; a broken connection is a normal end."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
