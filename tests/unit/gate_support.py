"""An agent's real application, over TLS and a unix socket, whose handlers only say that they were reached."""

from __future__ import annotations

import functools
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import structlog
from aiohttp import web
from pki_support import CLUSTER, authority_now, make_member

from hostagent.drivers.audit.spool import Spool
from hostagent.server import app as app_module
from hostagent.server.app import ApiServer, build_app
from hostagent.server.audit import Audit
from hostagent.server.identity import Gate, identity_of
from vdc.api.routes import Route
from vdc.control.clock import SystemClock
from vdc.model.identity import Identity, Role
from vdc.security.authority import Authority
from vdc.security.certificates import read_certificate
from vdc.security.keys import key_to_pem, new_key
from vdc.security.tls import client_context

ADDRESS = "127.0.0.1"
MONTH = timedelta(days=30)


class Agent:
    """h1's, as others reach it. `known`: hosts by name and address; `revoked`: serial numbers."""

    audit: Audit

    def __init__(self, folder: Path, port: int) -> None:
        self.port, self.socket = port, folder / "api.sock"
        self.known = {"h1": ADDRESS, "h2": ADDRESS, "w1": ADDRESS}
        self.revoked: set[str] = set()
        self.synced = SimpleNamespace(is_set=lambda: True)
        self.trust = make_member(folder, "h1", ADDRESS)
        mirror: Any = SimpleNamespace(synced=self.synced, pair=lambda name: None)
        type_of = functools.partial(SimpleNamespace, replication_address="")
        self.host: Any = SimpleNamespace(
            name="h1", mirror=mirror, store_silent_ms=lambda: 0.0, clock=SystemClock(), log=structlog.get_logger()
        )  # fmt: skip
        mirror.__dict__["hosts"] = _Hosts(self.known, type_of)
        self.gate = Gate(self.host, self.trust, is_revoked=lambda serial: serial in self.revoked)

    def url(self, path: str) -> str:
        return f"https://{ADDRESS}:{self.port}{path}"

    @asynccontextmanager
    async def serving(self, app: web.Application) -> AsyncIterator[None]:
        import asyncio

        ready = asyncio.Event()
        server = ApiServer(
            app, self.trust, path=self.socket, address=ADDRESS, port=self.port, on_ready=ready.set
        )
        task = asyncio.create_task(server.run())
        await ready.wait()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class _Hosts:
    def __init__(self, known: dict[str, str], make: Any) -> None:
        self._known, self._make = known, make

    def get(self, name: str) -> Any:
        address = self._known.get(name)
        return SimpleNamespace(value=self._make(management_address=address)) if address else None


class Reached:
    """Handlers for every route."""

    def __init__(self, _: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        async def reached(request: web.Request) -> object:
            identity = identity_of(request)
            return {"reached": name, "as": identity.uri if identity else ""}

        return reached


def build(agent: Agent, monkeypatch: Any) -> web.Application:
    for name in vars(app_module).copy():
        if name.endswith(("Handlers", "Handler")) and name != "Handler":
            monkeypatch.setattr(app_module, name, Reached)
    spool = Spool(agent.socket.parent / "audit", agent.host.name)
    spool.load()
    agent.audit = Audit(spool, agent.host)
    context: Any = SimpleNamespace(host=agent.host, audit=agent.audit)
    return build_app(context, agent.gate)


@functools.cache
def shown(
    role: Role,
    name: str,
    *,
    authority: Authority | None = None,
    cluster: str = CLUSTER,
    issued_ago: timedelta = timedelta(),
) -> tuple[str, str]:
    """A certificate and its key."""
    by, key = authority or authority_now(), new_key()
    identity = Identity(cluster=cluster, role=role, name=name)
    at = datetime.now(UTC) - issued_ago
    addresses = [ADDRESS] if role.is_machine else []
    return by.issue(identity, key.public_key(), at, addresses=addresses, valid_for=MONTH), key_to_pem(key)


def serial_of(certificate: str) -> str:
    return read_certificate(certificate).serial


def context_of(*pair: str) -> ssl.SSLContext:
    return client_context(authority_now().pem, *pair)


def session_of(*pair: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context_of(*pair)))


def path_of(route: Route) -> str:
    return re.sub(r"\{[a-z]+\}", "x", route.path)


@asynccontextmanager
async def serving_agent(folder: Path, monkeypatch: Any) -> AsyncIterator[Agent]:
    """The whole application behind the real gate, over TLS at a free port of the loopback."""
    with socket.create_server((ADDRESS, 0)) as free:
        port = free.getsockname()[1]
    made = Agent(folder, port)
    async with made.serving(build(made, monkeypatch)):
        yield made
