"""The terminal in raw mode, joined to a guest's serial console over a websocket.

The terminal is given back as it was, whatever happens. A connection that breaks is made again: the guest has
moved to another host, or its agent was restarted.
"""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from aiohttp import ClientWebSocketResponse, WSMsgType

from vdc.api.client import ApiClient
from vdc.model.errors import UnavailableError

ESCAPE = b"\x1d"  # Ctrl-]
_RETRY_S = 0.3
_GIVE_UP_S = 60.0
_AFTER_END_S = 1.0  # of silence, when standard input was no terminal and has ended
_CHATTY_S = 10.0  # that a guest which is never silent is listened to then
_READ_BYTES = 4096


@contextmanager
def raw_terminal(descriptor: int) -> Iterator[bool]:
    """Raw mode, where the descriptor is a terminal; says whether it is one."""
    if not os.isatty(descriptor):
        yield False
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield True
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class Input:
    """Bytes from a descriptor, read when there are any; `None` is its end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=256)

    @contextmanager
    def reading(self) -> Iterator[asyncio.Queue[bytes | None]]:
        """Read in the background; a descriptor that cannot be waited for (a file) is read at once."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(self._descriptor, self._read)
        except PermissionError:
            self._queue = asyncio.Queue()
            while chunk := os.read(self._descriptor, _READ_BYTES):
                self._queue.put_nowait(chunk)
            self._queue.put_nowait(None)
            yield self._queue
            return
        try:
            yield self._queue
        finally:
            loop.remove_reader(self._descriptor)

    def _read(self) -> None:
        if self._queue.full():
            return  # the descriptor stays readable, and this is called again
        chunk = os.read(self._descriptor, _READ_BYTES)
        self._queue.put_nowait(chunk or None)
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._descriptor)


async def run_console(api: ApiClient, name: str) -> None:
    """Join terminal and guest until the user leaves; `UnavailableError` where it stays away for a minute."""
    stdin = sys.stdin.fileno()
    is_terminal = os.isatty(stdin)
    if is_terminal:
        print(f"console of {name}; leave with Ctrl-]", file=sys.stderr, flush=True)
    with raw_terminal(stdin), Input(stdin).reading() as keys:
        await _stay_joined(api, name, keys, say=_saying(is_terminal))
    if is_terminal:
        print(file=sys.stderr)


def _saying(is_terminal: bool) -> Any:
    def say(text: str) -> None:
        if is_terminal:
            print(f"\r\n[{text}]\r", file=sys.stderr, flush=True)

    return say


async def _stay_joined(api: ApiClient, name: str, keys: asyncio.Queue[bytes | None], say: Any) -> None:
    loop = asyncio.get_running_loop()
    lost_at: float | None = None
    while True:
        try:
            async with api.endophyte_console(name) as socket:
                if lost_at is not None:
                    say("connected again")
                lost_at = None
                if await _join(socket, keys):
                    return
        except UnavailableError:
            if lost_at is not None and loop.time() - lost_at > _GIVE_UP_S:
                raise
        if lost_at is None:
            lost_at = loop.time()
            say("connection lost, connecting again; Ctrl-] leaves")
        if await _pressed_escape(keys, _RETRY_S):
            return


async def _pressed_escape(keys: asyncio.Queue[bytes | None], wait_s: float) -> bool:
    """Wait a little; says whether the user wants to leave meanwhile. Other keys are dropped."""
    try:
        async with asyncio.timeout(wait_s):
            while (chunk := await keys.get()) is not None:
                if ESCAPE in chunk:
                    return True
            return True
    except TimeoutError:
        return False


async def _join(socket: ClientWebSocketResponse, keys: asyncio.Queue[bytes | None]) -> bool:
    """Carry bytes both ways; True when the user has left, False when the connection has ended."""
    printed = asyncio.Event()
    output = asyncio.create_task(_receive(socket, printed), name="console-output")
    typing = asyncio.create_task(_send(socket, keys, printed), name="console-input")
    try:
        await asyncio.wait({output, typing}, return_when=asyncio.FIRST_COMPLETED)
        if typing.done() and not typing.cancelled() and typing.exception() is None:
            return typing.result()
        return False
    finally:
        for task in (output, typing):
            task.cancel()
        await asyncio.gather(output, typing, return_exceptions=True)


async def _receive(socket: ClientWebSocketResponse, printed: asyncio.Event) -> None:
    async for message in socket:
        if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
            data = message.data.encode() if isinstance(message.data, str) else message.data
            _show(data)
            printed.set()


def _show(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


async def _send(
    socket: ClientWebSocketResponse, keys: asyncio.Queue[bytes | None], printed: asyncio.Event
) -> bool:
    while (chunk := await keys.get()) is not None:
        before, escape, _ = chunk.partition(ESCAPE)
        if before:
            await socket.send_bytes(before)
        if escape:
            return True
    with suppress(TimeoutError):
        async with asyncio.timeout(_CHATTY_S):
            while True:
                printed.clear()
                await asyncio.wait_for(printed.wait(), _AFTER_END_S)
    return True
