"""A witness: an etcd member, an agent that may lead, ears for heartbeats, an API. It runs no guest.

Two hosts cannot tell a dead peer from a cut cable; with a witness either of them can win a majority without
the other. It needs neither QEMU, libvirt, images nor the overlay, and one network is enough. Being nobody's
primary it is where etcd's leadership belongs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable
from contextlib import AsyncExitStack

import structlog

from hostagent.agent.agent import MEMBERS_EVERY_S, Agent
from hostagent.agent.audit import AuditKeeper, open_audit
from hostagent.agent.cached import Cached
from hostagent.agent.doctor import programs_check, witness_checks
from hostagent.agent.majority import majority_checks
from hostagent.agent.packetfilter import PacketFilter
from hostagent.agent.peers import PeerKeys, follow_peers, when_peers_change
from hostagent.agent.presence import keep_present, publish_network
from hostagent.server.context import ServerContext
from hostagent.server.override import Override
from hostagent.supervisor.failpoints import Failpoints
from hostagent.supervisor.node import NodeContext
from hostagent.supervisor.supervisor import Supervisor
from vdc import __version__
from vdc.api.models import Check, HostSweep
from vdc.control.desired import DesiredState
from vdc.control.events import EventLog
from vdc.control.leader import Election
from vdc.control.maintenance import MaintenanceWishes
from vdc.images.blobs import BlobStore
from vdc.images.reference import candidates
from vdc.model.errors import NotFoundError, RefusedError, UnavailableError
from vdc.model.host import Accelerator, Host, HostRole, QemuVersion
from vdc.model.image import Blob
from vdc.security.keyring import Keyring
from vdc.store.etcd import EtcdStore
from vdc.store.mirror import Mirror


class WitnessAgent(Agent):
    """The parts of an agent that a vote needs."""

    async def _describe(self) -> Host:
        config = self.config
        return Host(
            name=config.host,
            role=HostRole.WITNESS,
            api_url=config.api_url,
            management_address=str(config.management.address),
            replication_address=str(config.replication.address) if config.has_replication else "",
            overlay_address="",
            heartbeat_port=config.heartbeat_port,
            agent_version=__version__,
            incarnation=self._incarnation,
            labels=config.labels,
            cpus=os.cpu_count() or 1,
            memory_bytes=0,
            accelerator=Accelerator(name="none", reason="a witness runs no guests"),
            qemu=QemuVersion(reason="a witness runs no guests"),
            started_at=self._clock.wall(),
        )

    async def _take_part(
        self,
        record: Host,
        store: EtcdStore,
        stack: AsyncExitStack,
        group: asyncio.TaskGroup,
    ) -> None:
        host = NodeContext(
            config=self.config,
            record=record,
            store=store,
            mirror=Mirror(store, report=self._log.warning),
            events=EventLog(store, self.config.host, self._clock),
            clock=self._clock,
            heartbeats=self._heartbeats(stack),
            failpoints=Failpoints.of(self.config.state_dir, os.environ),
            store_heard_at_s=self._clock.boottime_s(),
            log=structlog.get_logger(),
        )
        self._sessions.mirror = host.mirror
        self._filter = PacketFilter(self.config, self._clock)
        await self._filter.begin()
        await host.heartbeats.start()
        group.create_task(host.heartbeats.run(), name="heartbeats")
        group.create_task(host.mirror.run(), name="mirror")
        group.create_task(self._filter.run(host.mirror), name="packet filter")
        group.create_task(_follow_hosts(host, self._keyring), name="peers")
        group.create_task(keep_present(host, self._keyring), name="presence")
        self._keep_lineage(host, store, group)
        await self._serve_cluster(host, store, group)

    async def _serve_cluster(self, host: NodeContext, store: EtcdStore, group: asyncio.TaskGroup) -> None:
        members = Cached(lambda: self._voters(store), MEMBERS_EVERY_S, self._clock.boottime_s)
        own_programs = programs_check(self.config, self._clock)

        async def checks() -> tuple[Check, ...]:
            found = witness_checks(host, await members(), self._filter.trouble)
            left_out = self._lineage.known.left_out
            return (*found, await own_programs(), *majority_checks(host, await members(), left_out))

        nobody, blobs = _NoSupervisors(host.name), _NoBlobs(host)
        desired = DesiredState(store, host.mirror, self._clock, candidates)
        context = ServerContext(
            host=host,
            desired=desired,
            maintenance=MaintenanceWishes(store, host.mirror, self._clock, desired),
            supervisors=nobody,
            blobs=blobs,
            sessions=self._sessions,
            members=members,
            checks=checks,
            override=Override(host, store, self._member, self._lineage, nobody.find),
            audit=(audit := open_audit(host)),
            issuer=self._issuer(host),
            sweep_images=blobs.nothing_to_sweep,
        )
        group.create_task(AuditKeeper(host, audit).run(), name="audit")
        self._keep_credentials(context, group)
        self.config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        group.create_task(self._api(context).run(), name="api")
        group.create_task(self._vote(context, store), name="election")

    async def _vote(self, context: ServerContext, store: EtcdStore) -> None:
        host = context.host
        await host.mirror.synced.wait()
        while True:
            try:
                await publish_network(host, self.config.network)
                break
            except UnavailableError:
                await asyncio.sleep(0.5)
        election = Election(store, host.name, self.config.timings.leader_ttl_s)
        await election.run(self._term(context, store))


async def _follow_hosts(host: NodeContext, keyring: Keyring) -> None:
    changed = when_peers_change(host, keyring)
    peer_keys = PeerKeys(keyring, host.log.warning)
    while True:
        await changed.wait()
        changed.clear()
        follow_peers(host, peer_keys)


class _NoSupervisors:
    """Where a host keeps its copies of guests."""

    def __init__(self, host: str) -> None:
        self._host = host

    def find(self, name: str) -> Supervisor:
        """Nothing is here."""
        raise NotFoundError(f"{self._host} is a witness and has no copy of {name}", code="no-copy")

    async def follow(self, name: str, epoch: int) -> None:
        """No frame of a guest comes through here."""


class _NoBlobs(BlobStore):
    """Where a host keeps images; content is refused before any of it travels."""

    def __init__(self, host: NodeContext) -> None:
        super().__init__(host.image_dir)
        self._host = host.name

    async def write(self, digest: str, chunks: AsyncIterable[bytes], size_bytes: int | None = None) -> Blob:
        """Refused."""
        raise self._refusal()

    async def write_part(
        self, digest: str, first: int, chunks: AsyncIterable[bytes], size_bytes: int
    ) -> Blob | None:
        """Refused."""
        raise self._refusal()

    async def nothing_to_sweep(self, is_dry: bool) -> HostSweep:
        """See `ServerContext.sweep_images`."""
        return HostSweep(host=self._host)

    def _refusal(self) -> RefusedError:
        return RefusedError(
            f"{self._host} is a witness and keeps no images",
            code="is-witness",
            hint="ask a host: vdc get nodes",
        )
