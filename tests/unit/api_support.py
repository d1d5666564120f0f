"""Agents that are real aiohttp servers on unix sockets, for tests of the client."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from vdc.api.client import Deadlines
from vdc.model.errors import VdcError

QUICK = Deadlines(
    connect_s=2.0, health_s=2.0, stagger_s=0.01, read_s=0.15, last_s=0.6, idle_s=0.15, reconnect_s=0.01
)
Handler = Callable[[web.Request], "asyncio.Future[web.StreamResponse]"]


def ok(sentence: str = "done") -> web.Response:
    return web.json_response({"sentence": sentence})


def problem(error: VdcError) -> web.Response:
    return web.Response(
        status=error.http_status, text=error.problem.to_json(), content_type="application/json"
    )


class Agent:
    """A server with a few handlers that notes what it was asked."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.path = folder / f"{name}.sock"
        self.endpoint = f"unix://{self.path}"
        self.asked: list[str] = []
        self.app = web.Application(client_max_size=16 * 1024**2)
        self.app.middlewares.append(self._note)

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        return await handler(request)

    def on(self, method: str, path: str, handler: Callable[[web.Request], Any]) -> None:
        async def asynchronous(request: web.Request) -> web.StreamResponse:
            answer = handler(request)
            return await answer if inspect.isawaitable(answer) else answer

        for verb in ("GET", "HEAD") if method == "GET" else (method,):
            self.app.router.add_route(verb, path, asynchronous)

    async def healthy(self, _request: web.Request) -> web.Response:
        return ok(self.name)

    @asynccontextmanager
    async def running(self, *, health: bool = True) -> AsyncIterator[Agent]:
        if health:
            self.on("GET", "/v1/health", self.healthy)
        runner = web.AppRunner(self.app, shutdown_timeout=0.01)
        await runner.setup()
        await web.UnixSite(runner, str(self.path)).start()
        try:
            yield self
        finally:
            await runner.cleanup()


async def hang(_request: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return ok()


def nodes(_request: web.Request) -> web.Response:
    return web.json_response({"items": []})
