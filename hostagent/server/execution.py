"""One `endophyte_exec`: between a person's websocket and a request in the guest, both ways, until either ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import aiohttp
from aiohttp import web
from pydantic import ValidationError

from hostagent.drivers.guest import Errors, GuestError, GuestStream
from hostagent.server.relay import first_of
from hostagent.supervisor.guestline import GuestLine
from vdc.api.execution import (
    ERRORS,
    INPUT,
    MOST_BYTES,
    OUTPUT,
    WINDOW,
    ExecMessage,
    ExecOptions,
    ExecResult,
    Window,
)
from vdc.model.errors import Problem

OPTIONS_S: Final = 10.0  # for the client's first message
BAD = aiohttp.WSCloseCode.POLICY_VIOLATION


async def serve(socket: web.WebSocketResponse, line: GuestLine, command: Sequence[str], user: str) -> None:
    """Run the command, and tell how it ended unless the client has gone: then it is ended too."""
    options = await read_options(socket)
    if options is None:
        await socket.close(code=BAD, message=b"the first message has to be the options")
        return
    request: dict[str, Any] = {"op": "exec", "argv": list(command), "user": user, **options.model_dump()}
    try:
        async with await line.open(request) as stream:
            result = await _Execution(socket, stream).run()
    except GuestError as error:
        result = ExecResult(problem=error.problem)
    if result is not None and not socket.closed:
        await socket.send_str(ExecMessage(result=result).to_json())
    await socket.close()


async def read_options(socket: web.WebSocketResponse) -> ExecOptions | None:
    """The client's first message; None where it is none."""
    try:
        message = await socket.receive(timeout=OPTIONS_S)
        return (
            ExecOptions.from_json(message.data.encode()) if message.type is aiohttp.WSMsgType.TEXT else None
        )
    except (TimeoutError, ValidationError):
        return None


async def obey(
    socket: web.WebSocketResponse,
    take: Callable[[bytes], Awaitable[bool]],
    order: Callable[[str], Awaitable[bool]],
) -> None:
    """Hand on what the client sends; ends with the client, or with what a client does not send."""
    async for message in socket:
        is_good = False
        if message.type is aiohttp.WSMsgType.BINARY:
            is_good = await take(message.data)
        elif message.type is aiohttp.WSMsgType.TEXT:
            is_good = await order(message.data)
        if not is_good:
            await socket.close(code=BAD)


class _Execution:
    """The work of one."""

    def __init__(self, socket: web.WebSocketResponse, stream: GuestStream) -> None:
        self._socket = socket
        self._stream = stream
        self._window = Window()  # what the client may be sent
        self._input: asyncio.Queue[bytes | None] = asyncio.Queue()  # bounded by what the client was allowed
        self._waiting = 0  # bytes of it
        self._has_ended_input = False

    async def run(self) -> ExecResult | None:
        """How it ended; None where the client is gone. Raises GuestError."""
        feeding = asyncio.create_task(self._feed(), name="exec input")
        try:
            await first_of(self._outward(), obey(self._socket, self._take, self._obey))
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        if not self._stream.has_ended:
            return None
        answer = await self._stream.answer()
        code = answer.get("exit_code")
        if not isinstance(code, int) or not 0 <= code <= 255:
            problem = Problem(code="guest-refused", message="the guest does not say how the command ended")
            return ExecResult(problem=problem)
        return ExecResult(exit_code=code)

    async def _outward(self) -> None:
        while (piece := await self._stream.read()) is not None:
            kind, rest = ERRORS if isinstance(piece, Errors) else OUTPUT, piece.data
            while rest:
                count = await self._window.take(len(rest))
                await self._socket.send_bytes(kind + rest[:count])
                rest = rest[count:]

    async def _take(self, data: bytes) -> bool:
        self._waiting += len(data) - 1
        if data[:1] != INPUT or self._has_ended_input or self._waiting > WINDOW or len(data) > MOST_BYTES + 1:
            return False
        if len(data) > 1:  # nothing takes no credit, so there could be any number of it
            self._input.put_nowait(data[1:])
        return True

    async def _obey(self, text: str) -> bool:
        try:
            message = ExecMessage.from_json(text)
        except ValidationError:
            return False
        if message.credit:
            self._window.grant(message.credit)
        if message.is_end and not self._has_ended_input:
            self._has_ended_input = True
            self._input.put_nowait(None)
        if message.resize is not None:
            await self._control({"resize": list(message.resize)})
        if message.signal:
            await self._control({"signal": message.signal})
        return True

    async def _control(self, order: dict[str, Any]) -> None:
        await self._stream.control(json.dumps(order).encode())

    async def _feed(self) -> None:
        """Give the guest its input as it takes it, and the client its credit back."""
        while (data := await self._input.get()) is not None:
            await self._stream.write(data)
            self._waiting -= len(data)
            await self._socket.send_str(ExecMessage(credit=len(data)).to_json())
        await self._stream.end_input()
