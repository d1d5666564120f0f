"""The real API of host h1 over a store in memory: every route, its middlewares and limits, on a unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import structlog
from etcd_support import Beats
from protection_world import DIGEST, endophyte, host, pair

from hostagent.agent.credentials import open_keyring
from hostagent.config import AgentConfig
from hostagent.drivers.audit.spool import Spool
from hostagent.drivers.trust import Trust
from hostagent.server.app import ApiServer, build_app
from hostagent.server.audit import Audit
from hostagent.server.context import ServerContext
from hostagent.server.identity import Gate
from hostagent.server.issuing import Issuer
from hostagent.server.override import Override
from hostagent.supervisor.node import NodeContext
from vdc.api.models import Check, HostSweep
from vdc.control.clock import SystemClock
from vdc.control.desired import DesiredState
from vdc.control.events import EventLog
from vdc.control.identities import Identities
from vdc.control.maintenance import MaintenanceWishes
from vdc.images.blobs import BlobStore
from vdc.images.reference import candidates
from vdc.model.errors import NotFoundError
from vdc.model.image import Image, ImageEntry, ImageKind
from vdc.model.network import Network
from vdc.model.pair import SyncState
from vdc.model.units import MIB
from vdc.security import cluster
from vdc.security.folder import pki_folder
from vdc.security.keyring import Keyring
from vdc.store import keys
from vdc.store.etcd_admin import MemberStatus
from vdc.store.memory import MemoryStore
from vdc.store.mirror import Mirror
from vdc.store.protocol import Put

HOSTS = ("h1", "h2", "h3")


class NoCopies:
    """The guests of this host: none runs."""

    def find(self, name: str) -> Any:
        raise NotFoundError(f"h1 has no copy of {name}", code="no-copy")

    async def follow(self, name: str, epoch: int) -> None:
        """Nothing is forwarded."""


@dataclass
class Served:
    """A running API."""

    context: ServerContext
    socket: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


async def _filled(store: MemoryStore) -> MemoryStore:
    image = ImageEntry(
        digest=DIGEST, image=Image(kind=ImageKind.KERNEL, min_memory_bytes=96 * MIB), names=("mycelium/mini:latest",)
    )  # fmt: skip
    records = [
        *((keys.host(name), host(name).with_(api_url="https://127.0.0.1:1").to_json()) for name in HOSTS),
        *((keys.liveness(name), "i") for name in HOSTS),
        (keys.network("default"), Network().to_json()),
        (keys.image(DIGEST), image.to_json()),
        (keys.image_name("mycelium/mini:latest"), DIGEST),
        (keys.endophyte("web"), endophyte().to_json()),
        (keys.pair("web"), pair(sync=SyncState.SYNCING).to_json()),
    ]
    await store.commit([], [Put(key, value) for key, value in records])
    return store


def agent_config(state_dir: Path) -> AgentConfig:
    made = AgentConfig.model_validate({
        "host": "h1", "state_dir": "/var/lib/vdc", "management": {"address": "127.0.0.1", "interface": "lo"},
        "replication": {"address": "10.71.0.1", "interface": "lo"}, "overlay_address": "10.77.0.1",
        "etcd": {"endpoints": ["https://127.0.0.1:1"]}, "api_port": 0,
    })  # fmt: skip
    return made.model_copy(update={"state_dir": state_dir})


def _now() -> datetime:
    return datetime.now(UTC)


def _keyring(folder: Path) -> Keyring:
    """The credentials of a cluster's first host."""
    cluster.init(pki_folder(folder), host="h1", addresses=("127.0.0.1",), now=_now())
    return open_keyring(pki_folder(folder), _now())


@asynccontextmanager
async def made_context(folder: Path) -> AsyncIterator[ServerContext]:
    """What the handlers use; a mirror follows the store."""
    store, clock = await _filled(MemoryStore()), SystemClock()
    mirror = Mirror(store, report=lambda sentence: None)
    node = NodeContext(
        config=agent_config(folder), record=host("h1"), store=store, mirror=mirror,
        events=EventLog(store, "h1", clock), clock=clock, heartbeats=Beats(),  # type: ignore[arg-type]
        store_heard_at_s=clock.boottime_s() + 3600, log=structlog.get_logger(),
    )  # fmt: skip
    desired, nobody = DesiredState(store, mirror, clock, candidates), NoCopies()

    async def members() -> tuple[MemberStatus, ...]:
        return (MemberStatus("http://10.70.0.1:7379", is_healthy=True),)

    async def checks() -> tuple[Check, ...]:
        return (Check(name="test", level="ok", sentence="fine"),)

    async def nothing_swept(is_dry: bool) -> HostSweep:
        return HostSweep(host="h1")

    keyring = _keyring(folder)
    issuer = Issuer("h1", keyring, Identities(store, mirror), mirror, _now)
    audit = Audit(Spool(folder / "audit", "h1"), node)
    lineages: Any = SimpleNamespace(owes_record=lambda host: False)
    async with aiohttp.ClientSession() as session:
        following = asyncio.create_task(mirror.run())
        try:
            async with asyncio.timeout(30):
                await mirror.synced.wait()
            yield ServerContext(
                host=node, desired=desired, maintenance=MaintenanceWishes(store, mirror, clock, desired),
                supervisors=nobody, blobs=BlobStore(folder / "images"), sweep_images=nothing_swept,
                sessions=lambda: session, members=members,
                checks=checks, issuer=issuer, audit=audit, override=Override(node, store, None, lineages, nobody.find),  # type: ignore[arg-type]
            )  # fmt: skip
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Served]:
    """The API on its unix socket, and a port of the loopback that leads to that socket."""
    async with made_context(folder) as context:
        ready = asyncio.Event()
        path, trust = folder / "api.sock", Trust(context.issuer.keyring)
        gate = Gate(context.host, trust, lambda serial: serial in context.host.mirror.revoked)
        api = ApiServer(
            build_app(context, gate), trust, path=path, address="127.0.0.1", port=0, on_ready=ready.set
        )
        running = asyncio.create_task(api.run())
        try:
            async with asyncio.timeout(30):
                await ready.wait()
            forwarder = await asyncio.start_server(_forward_to(path), "127.0.0.1", 0)
            async with forwarder:
                yield Served(context, path, forwarder.sockets[0].getsockname()[1])
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _forward_to(path: Path) -> Any:
    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(str(path))
        await asyncio.gather(copy(reader, back), copy(there, writer))

    return forward
