"""A cluster's agents as far as identities go: real handlers on unix sockets, one per caller, over one store.

Over TLS the caller's certificate says who calls; here the socket does. Time is the world's and moves by hand.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from pki_support import CLUSTER, NOW

from hostagent.agent.credentials import CredentialsKeeper, open_keyring
from hostagent.config import AgentConfig
from hostagent.server.context import ServerContext
from hostagent.server.http import errors_as_problems
from hostagent.server.identities import IdentityHandlers
from hostagent.server.identity import IDENTITY
from hostagent.server.issuing import Issuer
from hostagent.supervisor.node import NodeContext
from vdc.api.client import ApiClient
from vdc.api.identity_client import IdentityClient
from vdc.api.routes import ROUTES
from vdc.control.events import EventLog, read_events
from vdc.control.identities import Identities
from vdc.model.errors import UnavailableError
from vdc.model.host import Host, HostRole
from vdc.model.identity import Identity, Role
from vdc.security import cluster
from vdc.security.authority import Authority
from vdc.security.folder import pki_folder
from vdc.store import keys
from vdc.store.memory import MemoryStore
from vdc.store.mirror import Mirror
from vdc.store.protocol import Delete, Put


class WorldClock:
    def __init__(self) -> None:
        self.now = NOW

    def boottime_s(self) -> float:
        return self.now.timestamp()

    def wall(self) -> str:
        return self.now.isoformat(timespec="microseconds").replace("+00:00", "Z")


class Agent:
    """One agent: its folder, its view of the records, its handlers, its upkeep."""

    def __init__(self, world: World, name: str, number: int, role: Role) -> None:
        self.world, self.name = world, name
        self.address, state_dir = f"10.0.0.{number}", world.folder / name
        self.config = AgentConfig.model_validate(
            {
                "host": name, "state_dir": state_dir, "witness": role is Role.WITNESS, "overlay_address": "10.77.0.9",
                "management": {"address": self.address, "interface": "m"},
                "replication": {"address": f"10.1.0.{number}", "interface": "r"},
                "etcd": {"endpoints": ["https://10.0.0.1:2379"]},
            }
        )  # fmt: skip
        self.folder = pki_folder(state_dir)
        self.record = Host(
            name=name, role=HostRole.WITNESS if role is Role.WITNESS else HostRole.HOST,
            api_url=f"https://{self.address}:7400", management_address=self.address,
            replication_address=f"10.1.0.{number}", overlay_address=f"10.2.0.{number}", heartbeat_port=1,
            agent_version="0", incarnation=1, cpus=1, memory_bytes=0,
        )  # fmt: skip

    async def start(self) -> None:
        world = self.world
        self.keyring = open_keyring(self.folder, world.clock.now)
        self.mirror = Mirror(world.store, report=lambda sentence: None)
        self.issuer = Issuer(
            self.name,
            self.keyring,
            Identities(world.store, self.mirror),
            self.mirror,
            lambda: world.clock.now,
        )
        self.host = NodeContext(
            config=self.config, record=self.record, store=world.store, mirror=self.mirror,
            events=EventLog(world.store, self.name, world.clock), clock=world.clock, heartbeats=cast(Any, None),
            store_heard_at_s=float("inf"),
        )  # fmt: skip
        self.context = cast(ServerContext, _Context(self))
        self.handlers = IdentityHandlers(self.context)
        addresses = (self.record.management_address, self.record.replication_address)
        self.keeper = CredentialsKeeper(self.host, self.issuer, self.peer, addresses)
        world.agents[self.name] = self
        await world.store.commit(
            [], [Put(keys.host(self.name), self.record.to_json()), Put(keys.liveness(self.name), "i")]
        )

    def peer(self, name: str, acting_for: Identity | None = None) -> ApiClient:
        return self.world.client(name, acting_for or self.keyring.credentials.identity)

    def app(self, identity: Identity | None, *, reads_records: bool = True) -> web.Application:
        @web.middleware
        async def known(request: web.Request, handler: Any) -> Any:
            if reads_records:
                await self.mirror.read_all()
            if identity is not None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # aiohttp's, about names of keys
                    request[IDENTITY] = identity
            return await handler(request)

        app = web.Application(middlewares=[errors_as_problems, known])
        for route in ROUTES:
            if (handler := getattr(self.handlers, route.name, None)) is not None:
                app.router.add_route(route.method, route.path, handler)
        app.router.add_get("/v1/health", _health)
        return app


class _Context:
    def __init__(self, agent: Agent) -> None:
        self.host, self.issuer, self.peer = agent.host, agent.issuer, agent.peer


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"sentence": "ok"})


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = WorldClock()
        self.store = MemoryStore()
        self.agents: dict[str, Agent] = {}
        self._served: dict[tuple[str, Identity | None], web.AppRunner] = {}
        self._clients: list[ApiClient] = []

    async def found(self, *names: str) -> None:
        """A cluster whose hosts all have their folders from one authority, the first by `init`."""
        founded = None
        for number, name in enumerate(names, start=1):
            role = Role.WITNESS if name.startswith("w") else Role.HOST
            agent = Agent(self, name, number, role)
            served = (agent.address, f"10.1.0.{number}")
            if founded is None:
                founded = cluster.init(
                    agent.folder, host=name, addresses=served, now=self.clock.now, cluster=CLUSTER
                )
                self.authority: Authority = founded.authority
                self.admin = founded.admin
            else:
                cluster.issue_host_folder(
                    self.authority, agent.folder, name=name, addresses=served, now=self.clock.now, role=role
                )
            await agent.start()
        await self.settle()

    async def settle(self, rounds: int = 3) -> None:
        for _ in range(rounds):
            for agent in self.agents.values():
                await agent.mirror.read_all()
                await agent.keeper.step()

    def pass_time(self, by: timedelta) -> datetime:
        self.clock.now += by
        return self.clock.now

    async def silence(self, name: str) -> None:
        """An agent that does nothing any more; its record stays."""
        del self.agents[name]
        await self.store.commit([], [Delete(keys.liveness(name))])

    async def serve(self, name: str, identity: Identity | None) -> str:
        path = (
            self.folder
            / f"{name}-{identity.role if identity else 'nobody'}-{identity.name if identity else ''}"
        )
        if (name, identity) not in self._served:
            runner = web.AppRunner(self.agents[name].app(identity), shutdown_timeout=0.01)
            await runner.setup()
            await web.UnixSite(runner, str(path)).start()
            self._served[(name, identity)] = runner
        return f"unix://{path}"

    def client(self, name: str, identity: Identity | None) -> ApiClient:
        """For an agent's own calls: the socket is made when it is first used."""
        return cast(ApiClient, _Lazy(self, name, identity))

    async def ask(self, name: str, identity: Identity | None) -> IdentityClient:
        client = ApiClient([await self.serve(name, identity)])
        self._clients.append(client)
        return client.identities

    async def events(self, code: str) -> list[str]:
        return [event.sentence for event in await read_events(self.store) if event.code == code]

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        for runner in self._served.values():
            await runner.cleanup()


class _Lazy:
    """An ApiClient whose agent may have gone."""

    def __init__(self, world: World, name: str, identity: Identity | None) -> None:
        self._world, self._name, self._identity = world, name, identity

    @property
    def identities(self) -> Any:
        return self

    def __getattr__(self, route: str) -> Any:
        async def call(*arguments: Any, **named: Any) -> Any:
            if self._name not in self._world.agents:
                raise UnavailableError(f"{self._name} does not answer")
            found = await self._world.ask(self._name, self._identity)
            return await getattr(found, route)(*arguments, **named)

        return call


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="vdc-") as folder:  # socket paths have to be short
        made = World(Path(folder))
        yield made
        await made.close()


def admin(name: str = "root") -> Identity:
    return Identity(cluster=CLUSTER, role=Role.ADMIN, name=name)
