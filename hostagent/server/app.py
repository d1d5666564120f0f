"""The aiohttp application: every route of vdc.api bound to the handler of its name, served on two sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from hostagent.server.auditing import AuditHandlers
from hostagent.server.cluster import ClusterHandlers
from hostagent.server.console import ConsoleHandler
from hostagent.server.context import ServerContext
from hostagent.server.drill import DrillHandlers
from hostagent.server.endophytes import EndophyteHandlers
from hostagent.server.http import MAX_BODY_BYTES, Handler, errors_as_problems
from hostagent.server.maintenance import MaintenanceHandlers
from hostagent.server.metrics import MetricsHandler
from hostagent.server.readonly import guarded
from hostagent.server.verification import VerificationHandlers
from vdc.api.routes import ROUTES, Body
from vdc.model.errors import BugError, UnavailableError

SHUTDOWN_S = 0.5


def build_app(context: ServerContext) -> web.Application:
    """Raises BugError where a route has no handler."""
    audit = context.audit
    middlewares = [errors_as_problems, audit.middleware]
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY_BYTES)  # type: ignore[arg-type]
    app.on_response_prepare.append(audit.answered)
    groups = (
        EndophyteHandlers(context),
        ClusterHandlers(context),
        MaintenanceHandlers(context),
        ConsoleHandler(context),
        MetricsHandler(context),
        VerificationHandlers(context),
        DrillHandlers(context),
        AuditHandlers(context),
    )
    for route in ROUTES:
        handler: Handler | None = next(
            (getattr(g, route.name) for g in groups if hasattr(g, route.name)), None
        )
        if handler is None:
            raise BugError(f"route {route.name} has no handler")
        handler = audit.recorded(guarded(handler, route, context.host), route)
        if route.method == "GET" and route.body is Body.BYTES:
            app.router.add_get(route.path, handler, allow_head=False)  # type: ignore[arg-type]
        else:
            app.router.add_route(route.method, route.path, handler)  # type: ignore[arg-type]
    return app


class ApiServer:
    """Serves until cancelled. The unix socket is for this host's administrator (mode 0600)."""

    def __init__(
        self, app: web.Application, *, socket: Path, address: str, port: int, on_ready: Callable[[], None]
    ) -> None:
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True
        )
        self._socket = socket
        self._address = address
        self._port = port
        self._on_ready = on_ready

    async def run(self) -> None:
        """Raises UnavailableError (`port-taken`) where the address cannot be bound."""
        await self._runner.setup()
        try:
            self._socket.unlink(missing_ok=True)
            await web.UnixSite(self._runner, str(self._socket)).start()
            self._socket.chmod(0o600)
            try:
                await web.TCPSite(self._runner, self._address, self._port).start()
            except OSError as error:
                raise UnavailableError(
                    f"cannot serve on {self._address}:{self._port}: {error.strerror}",
                    code="port-taken",
                    hint="another agent, or another program on that port? see `ss -ltnp`",
                ) from error
            self._on_ready()
            await asyncio.Event().wait()
        finally:
            await self._runner.cleanup()
            with suppress(OSError):
                self._socket.unlink()
