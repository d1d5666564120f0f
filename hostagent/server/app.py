"""The aiohttp application: every route of vdc.api bound to the handler of its name, served on two sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from hostagent.drivers.trust import Trust
from hostagent.server.auditing import AuditHandlers
from hostagent.server.backups import BackupHandlers
from hostagent.server.blobs import BlobHandlers
from hostagent.server.cluster import ClusterHandlers
from hostagent.server.console import ConsoleHandler
from hostagent.server.context import ServerContext
from hostagent.server.drill import DrillHandlers
from hostagent.server.endophytes import EndophyteHandlers
from hostagent.server.guest import GuestHandlers
from hostagent.server.http import MAX_BODY_BYTES, Handler, errors_as_problems
from hostagent.server.identities import IdentityHandlers
from hostagent.server.identity import Gate
from hostagent.server.images import ImageHandlers
from hostagent.server.limits import RUNNER_OPTIONS, LimitedSite, Listener, listen, listen_unix
from hostagent.server.maintenance import MaintenanceHandlers
from hostagent.server.metrics import MetricsHandler
from hostagent.server.readonly import guarded
from hostagent.server.snapshots import SnapshotHandlers
from hostagent.server.verification import VerificationHandlers
from vdc.api.routes import ROUTES, Body
from vdc.model.errors import BugError, UnavailableError

SHUTDOWN_S = 0.5


def build_app(context: ServerContext, gate: Gate) -> web.Application:
    """Raises BugError where a route has no handler."""
    audit = context.audit
    app = web.Application(
        middlewares=[errors_as_problems, audit.middleware, gate.middleware],  # type: ignore[list-item]
        client_max_size=MAX_BODY_BYTES,
    )
    app.on_response_prepare.append(audit.answered)
    groups = (
        EndophyteHandlers(context),
        ClusterHandlers(context),
        ImageHandlers(context),
        BlobHandlers(context),
        MaintenanceHandlers(context),
        ConsoleHandler(context),
        GuestHandlers(context),
        MetricsHandler(context),
        VerificationHandlers(context),
        DrillHandlers(context),
        SnapshotHandlers(context),
        BackupHandlers(context),
        AuditHandlers(context),
        IdentityHandlers(context),
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
    """Serves until cancelled: over TLS on the network, in clear on a unix socket for this host's administrator (0600).

    The network's socket is made once; what is shown there is replaced by another listener on it, so that nobody who
    connects meanwhile is turned away and open connections stay.
    """

    def __init__(
        self, app: web.Application, trust: Trust, *, path: Path, address: str, port: int,
        on_ready: Callable[[], None],
    ) -> None:  # fmt: skip
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True, **RUNNER_OPTIONS
        )
        self._trust = trust
        self._changed = asyncio.Event()
        self._path = path
        self._address = address
        self._port = port
        self._on_ready = on_ready
        trust.subscribe(self._changed.set)

    async def run(self) -> None:
        """Raises UnavailableError (`port-taken`) where the address cannot be bound."""
        await self._runner.setup()
        try:
            self._path.unlink(missing_ok=True)
            await LimitedSite(self._runner, listen_unix(self._path)).start()
            with self._bound() as listening:
                site = await self._listener(listening)
                self._on_ready()
                while True:
                    await self._changed.wait()
                    self._changed.clear()
                    before, site = site, await self._listener(listening)
                    await before.retire()
        finally:
            await self._runner.cleanup()
            with suppress(OSError):
                self._path.unlink()

    def _bound(self) -> Listener:
        try:
            return listen(self._address, self._port)
        except OSError as error:
            raise UnavailableError(
                f"cannot serve on {self._address}:{self._port}: {error.strerror}",
                code="port-taken",
                hint="another agent, or another program on that port? see `ss -ltnp`",
            ) from error

    async def _listener(self, listening: Listener) -> LimitedSite:
        site = LimitedSite(self._runner, listening.dup(), ssl_context=self._trust.server)
        await site.start()
        return site
