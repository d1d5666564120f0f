"""Handlers that look into a guest: commands, and a container's files. The primary's host serves, others pass on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from hostagent.drivers.guest import Errors, GuestGoneError, GuestStream
from hostagent.server import agentexec, execution
from hostagent.server.context import ServerContext
from hostagent.server.http import WRITE_S
from hostagent.server.identity import person_of
from hostagent.server.limits import paced
from hostagent.server.relay import accept, relay, running_host
from hostagent.server.streaming import answer_stream
from hostagent.supervisor.guestagent import agent_of
from hostagent.supervisor.guestline import GuestLine, line_to
from vdc.api.execution import MOST_COMMAND
from vdc.api.files import FilesWritten
from vdc.model.errors import InvalidError
from vdc.model.strict_yaml import StrictError, parse_json

WRITTEN_S: Final = 100.0  # for the guest to write out what it got
_MOST_WORDS: Final = 1_000
_MOST_PATH: Final = 4_096
_USER = re.compile(r"[A-Za-z0-9_.-]{1,64}(:[A-Za-z0-9_.-]{1,64})?")


class GuestHandlers:
    """One method per route, named like it."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def endophyte_exec(self, request: web.Request) -> web.StreamResponse:
        """See the route table."""
        name, command, user = request.match_info["name"], _command(request), _user(request)
        host = await running_host(self._context.host, name)
        if host != self._context.host.name:
            peer = self._context.peer(host, person_of(request))
            async with peer.endophyte_exec(name, command, user) as onward:
                socket = await accept(request)
                await relay(socket, onward)
            return socket
        copy = self._context.supervisors.find(name).copy
        if copy.agent.has_port:
            agent = await agent_of(copy)
            socket = await accept(request)
            await agentexec.serve(socket, agent, command, user)
            return socket
        line = await line_to(copy)
        socket = await accept(request)
        await execution.serve(socket, line, command, user)
        return socket

    async def read_files(self, request: web.Request) -> web.StreamResponse:
        """See the route table. An error in the middle shows as an answer without an end."""
        name, path = request.match_info["name"], _path(request)
        host = await running_host(self._context.host, name)
        if host != self._context.host.name:
            peer = self._context.peer(host, person_of(request))
            return await answer_stream(request, peer.read_files(name, path), stuck_s=WRITE_S)
        line = await self._line(name)
        async with await line.open({"op": "read", "path": path}) as stream:
            return await answer_stream(request, _archive(stream), stuck_s=WRITE_S)

    async def write_files(self, request: web.Request) -> FilesWritten:
        """See the route table."""
        name, path = request.match_info["name"], _path(request)
        host = await running_host(self._context.host, name)
        if host != self._context.host.name:
            peer = self._context.peer(host, person_of(request))
            return await peer.write_files(name, path, lambda: paced(request.content))
        line = await self._line(name)
        async with await line.open({"op": "write", "path": path}) as stream:
            async for chunk in paced(request.content):
                await stream.write(chunk)
            await stream.end_input()
            try:
                async with asyncio.timeout(WRITTEN_S):
                    answer = await stream.answer()
            except TimeoutError as error:
                raise GuestGoneError(
                    f"{name}: the guest has not written everything after {WRITTEN_S:g} s", code="guest-silent"
                ) from error
        files = answer.get("files")
        return FilesWritten(files=files if isinstance(files, int) else 0)

    async def _line(self, name: str) -> GuestLine:
        return await line_to(self._context.supervisors.find(name).copy)


async def _archive(stream: GuestStream) -> AsyncIterator[bytes]:
    """What the guest packs; raises its refusal at the end. Its complaints on the way are its own."""
    while (piece := await stream.read()) is not None:
        if not isinstance(piece, Errors):
            yield piece.data
    await stream.answer()


def _command(request: web.Request) -> list[str]:
    """Raises InvalidError (`query-invalid`)."""
    text = request.query.get("command", "")
    try:
        words = parse_json(text.encode(), max_values=_MOST_WORDS) if len(text) <= MOST_COMMAND else None
    except (StrictError, UnicodeEncodeError):
        words = None
    if isinstance(words, list) and words and words[0] and all(_is_word(word) for word in words):
        return words
    raise InvalidError("command: a JSON list of words is expected, the program first", code="query-invalid")


def _is_word(word: object) -> bool:
    return isinstance(word, str) and "\0" not in word


def _user(request: web.Request) -> str:
    user = request.query.get("user", "")
    if user and not _USER.fullmatch(user):
        raise InvalidError(f"user: {user[:80]!r} is neither a name nor a number", code="query-invalid")
    return user


def _path(request: web.Request) -> str:
    path = request.query.get("path", "")
    try:
        is_path = path.startswith("/") and "\0" not in path and len(path.encode()) <= _MOST_PATH
    except UnicodeEncodeError:
        is_path = False
    if not is_path:
        raise InvalidError(f"path: {path[:80]!r} is not an absolute path", code="query-invalid")
    return path
