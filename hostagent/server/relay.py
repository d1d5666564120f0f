"""Websockets of people that lead to one host: served there, and passed on by every other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import aiohttp
from aiohttp import web

from hostagent.server import views
from hostagent.supervisor.node import NodeContext
from vdc.model.errors import ConflictError

MOST_MESSAGE = 64 * 1024
_DATA = (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT)


async def running_host(host: NodeContext, name: str) -> str:
    """Where the primary runs. Raises ConflictError (`not-running`)."""
    await views.find_endophyte(host.mirror, name)
    running = views.running_primary(host.mirror, name)
    if running is None:
        raise ConflictError(f"{name} does not run", code="not-running", hint=f"vdc start {name}")
    return running


async def accept(request: web.Request) -> web.WebSocketResponse:
    """The websocket, open."""
    socket = web.WebSocketResponse(heartbeat=10.0, max_msg_size=MOST_MESSAGE, compress=False)
    await socket.prepare(request)
    return socket


async def relay(socket: web.WebSocketResponse, onward: aiohttp.ClientWebSocketResponse) -> None:
    """Carry messages both ways, as they are, until either side ends."""
    await first_of(_carry(onward, socket), _carry(socket, onward))
    await socket.close()


async def first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, then end the others; a broken connection is a normal end."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _carry(
    source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    target: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type in _DATA:
            await target.send_str(message.data)
