"""Without a majority of etcd the API is read-only, and says so before anything is tried.

What is shown comes from the mirror and goes on being shown; a change would wait for the store's deadline and
then fail with an outcome that nobody knows. Silence alone refuses nothing: the store is asked once more.
"""

from __future__ import annotations

from aiohttp import web

from hostagent.server.http import Handler
from hostagent.supervisor.node import NodeContext
from vdc.api.routes import Route
from vdc.model.errors import UnavailableError
from vdc.store import keys

SILENT_MS = 2_500.0  # the store is heard once a second
ASK_S = 0.5


def guarded(handler: Handler, route: Route, host: NodeContext) -> Handler:
    """The handler as it is, or behind the question whether anything can be changed at present."""
    if route.method in ("GET", "HEAD") or route.is_peer or route.may_force:
        return handler

    async def ask_first(request: web.Request) -> object:
        await check_writable(host)
        return await handler(request)

    return ask_first


async def check_writable(host: NodeContext) -> None:
    """Raises UnavailableError (`read-only`) where the store has been silent and does not answer now either."""
    silent_ms = host.store_silent_ms()
    if silent_ms < SILENT_MS:
        return
    try:
        await host.store.get(keys.LEADER, deadline_s=ASK_S)
    except UnavailableError as error:
        raise UnavailableError(
            f"read-only: {host.name} has found no majority of etcd for {silent_ms / 1000:.0f} s; guests run on, "
            "nobody is promoted",
            hint="bring the other hosts back; vdc doctor shows which do not answer",
            code="read-only",
        ) from error
