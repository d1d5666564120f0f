"""What the handlers may use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp

from hostagent.drivers.images import Bandwidth
from hostagent.server.audit import Audit
from hostagent.server.issuing import Issuer
from hostagent.server.override import Override
from hostagent.supervisor.node import NodeContext
from hostagent.supervisor.supervisor import Supervisor
from vdc.api.client import ApiClient
from vdc.api.models import Check, HostSweep
from vdc.api.transport import DONE_ELSEWHERE
from vdc.control.desired import DesiredState
from vdc.control.maintenance import MaintenanceWishes
from vdc.images.blobs import BlobStore
from vdc.model.errors import NotFoundError, UnavailableError
from vdc.model.identity import Identity
from vdc.store.etcd_admin import MemberStatus


class Supervisors(Protocol):
    """Where the supervisors are found by name."""

    def find(self, name: str) -> Supervisor:
        """Raises NotFoundError where this host has no part in it."""
        ...

    async def follow(self, name: str, epoch: int) -> None:
        """Return when this host's forwarding entries are those of `epoch`; raises UnavailableError."""
        ...


@dataclass
class ServerContext:
    """One per agent."""

    host: NodeContext
    desired: DesiredState
    maintenance: MaintenanceWishes
    supervisors: Supervisors
    blobs: BlobStore
    sessions: Callable[[], aiohttp.ClientSession]
    members: Callable[[], Awaitable[tuple[MemberStatus, ...]]]
    checks: Callable[[], Awaitable[tuple[Check, ...]]]
    override: Override
    audit: Audit
    issuer: Issuer
    sweep_images: Callable[[bool], Awaitable[HostSweep]]  # remove what no image needs; or only look
    bandwidth: Bandwidth = field(default_factory=Bandwidth)  # of images

    def peer(self, host_name: str, acting_for: Identity | None = None) -> ApiClient:
        """A client of another host's agent, over the management network.

        `acting_for`: the person whose request is handed on; a witness hands none on, for nobody believes it.
        """
        found = self.host.mirror.hosts.get(host_name)
        if found is None:
            raise NotFoundError(f"host {host_name} is not known", code="host-not-found", hint="vdc get nodes")
        if host_name not in self.host.mirror.alive:
            raise UnavailableError(f"host {host_name} does not answer", code="host-unreachable")
        if acting_for is not None and self.host.config.witness:
            raise UnavailableError(
                f"{self.host.name} is a witness and hands nothing on", code=DONE_ELSEWHERE,
                hint="ask a host: vdc get nodes",
            )  # fmt: skip
        return ApiClient([found.value.peer_url], session=self.sessions(), acting_for=acting_for)
