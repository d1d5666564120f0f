"""The composition of one agent: what is started, in which order, and how it is taken down again.

Order: capabilities of this host, etcd member, view of the cluster, packet filter, heartbeats, overlay, supervisors,
API.
On the way down nothing that serves a guest is stopped: QEMU, swtpm, dnsmasq and etcd outlive the agent (I8).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import datetime

import structlog

from hostagent.agent.audit import AuditKeeper, open_audit
from hostagent.agent.cached import Cached
from hostagent.agent.credentials import CredentialsKeeper, open_keyring
from hostagent.agent.doctor import host_checks, programs_check
from hostagent.agent.etcd import ArbiterPlace, keep_credentials
from hostagent.agent.images import ImageKeeper, image_bytes_per_s
from hostagent.agent.incarnation import next_incarnation
from hostagent.agent.joining import addresses_of
from hostagent.agent.lineage import LineageKeeper
from hostagent.agent.majority import majority_checks, watch_majority
from hostagent.agent.manager import Manager
from hostagent.agent.names import NameService
from hostagent.agent.packetfilter import PacketFilter
from hostagent.agent.peers import PeerKeys, follow_peers, when_peers_change
from hostagent.agent.presence import keep_present, publish_network
from hostagent.agent.running import api_socket
from hostagent.agent.storage import StorageWatch
from hostagent.agent.survey import survey
from hostagent.agent.verifier import Verifier
from hostagent.config import AgentConfig
from hostagent.drivers.etcd import EmbeddedMember
from hostagent.drivers.images import Bandwidth, ImageCache
from hostagent.drivers.libvirt.client import LibvirtInventory
from hostagent.drivers.net import Netlink, OverlayNetwork, ReplicationRoutes
from hostagent.drivers.peers import PeerSessions
from hostagent.drivers.process import User, in_thread
from hostagent.drivers.process.cgroup import find_groups
from hostagent.drivers.process.oom import AGENT, set_oom_score
from hostagent.drivers.process.pidfile import own_processes
from hostagent.drivers.process.users import GuestFolders, require_free
from hostagent.drivers.trust import Trust, etcd_context
from hostagent.heartbeat.heartbeats import Heartbeats
from hostagent.heartbeat.order import NetworkKind
from hostagent.server.app import ApiServer, build_app
from hostagent.server.context import ServerContext
from hostagent.server.identity import Gate, revoked_by
from hostagent.server.issuing import Issuer
from hostagent.server.maintenance import promoter
from hostagent.server.override import Override
from hostagent.supervisor.failpoints import Failpoints
from hostagent.supervisor.host import HostContext
from hostagent.supervisor.node import NodeContext
from vdc.api.models import Check
from vdc.control.clock import SystemClock
from vdc.control.controller import Controller
from vdc.control.desired import DesiredState
from vdc.control.events import EventLog
from vdc.control.identities import Identities
from vdc.control.leader import Election
from vdc.control.maintenance import MaintenanceWishes
from vdc.images.blobs import BlobStore
from vdc.images.reference import candidates
from vdc.model.errors import UnavailableError
from vdc.model.host import Host
from vdc.model.units import MIB
from vdc.protection.majority import pair_without_witness
from vdc.security.folder import pki_folder
from vdc.store import keys
from vdc.store.etcd import EtcdStore
from vdc.store.etcd_admin import MemberStatus
from vdc.store.mirror import Mirror

NICE = -10  # heartbeats and decisions must not starve behind guests
MEMBERS_EVERY_S = 2.0
IMAGE_RESERVE_BYTES = 256 * MIB  # of the disk that no image may take: guests write there
ANNOUNCED_S = 1.0


class Agent:
    """One per host."""

    def __init__(self, config: AgentConfig, *, on_ready: Callable[[], None] = lambda: None) -> None:
        self.config = config
        self._on_ready = on_ready
        self._clock = SystemClock()
        self._log = structlog.get_logger()
        self._incarnation = 0  # before it runs
        self._manager: Manager | None = None
        self._member: EmbeddedMember | None = None

    async def run(self) -> None:
        """Run until cancelled. Raises VdcError where this host cannot take part at all."""
        _raise_priority()
        own_processes(self.config.state_dir)
        require_free(self.config.guest_uids.all)
        self._keyring = open_keyring(
            pki_folder(self.config.state_dir), datetime.fromisoformat(self._clock.wall())
        )
        now_ms = time.time_ns() // 1_000_000
        self._incarnation = await in_thread(next_incarnation, self.config.state_dir, now_ms)
        self._trust = Trust(self._keyring)
        self._trust.check(self.config)
        async with AsyncExitStack() as stack:
            self._sessions = PeerSessions(self._trust, self.config)
            stack.push_async_callback(self._sessions.close)
            record = await self._describe()
            async with asyncio.TaskGroup() as group:
                await self._start_etcd(group)
                store = self._store()
                stack.push_async_callback(store.close)
                await self._take_part(record, store, stack, group)

    def _store(self) -> EtcdStore:
        etcd = self.config.etcd
        store = EtcdStore(self._lineage.endpoints(), ssl=etcd_context(etcd, self._trust))
        if etcd.embedded is not None:
            self._trust.subscribe(lambda: store.use_ssl(self._trust.client))
        return store

    async def _describe(self) -> Host:
        record, self._libvirt = await survey(self.config, self._incarnation, self._clock.wall())
        return record

    async def _take_part(
        self,
        record: Host,
        store: EtcdStore,
        stack: AsyncExitStack,
        group: asyncio.TaskGroup,
    ) -> None:
        """Everything but the etcd member."""
        host = self._context(record, store, self._libvirt, stack)
        self._sessions.mirror = host.mirror
        await self._join(host, group)
        self._keep_lineage(host, store, group)
        await self._serve(host, store, group)

    # ---- the parts

    async def _start_etcd(self, group: asyncio.TaskGroup) -> None:
        embedded = self.config.etcd.embedded
        if embedded is not None:
            self._member = EmbeddedMember(
                self.config.host, embedded, state_dir=self.config.state_dir, runtime=self.config.runtime,
                user=User(self.config.guest_uids.etcd), trust=self._trust,
            )  # fmt: skip
            if (note := pair_without_witness(len(embedded.members))) is not None:
                self._log.warning(note)
        self._lineage = LineageKeeper(self.config, self._member)
        await self._lineage.resume()
        await self._lineage.ask_before_voting(self._sessions)
        if self._member is not None and self._lineage.may_vote:
            self._member.check_data()
            group.create_task(self._member.run(), name="etcd")

    def _issuer(self, host: NodeContext) -> Issuer:
        def now() -> datetime:
            return datetime.fromisoformat(self._clock.wall())

        identities = Identities(host.store, host.mirror)
        return Issuer(host.name, self._keyring, identities, host.mirror, now)

    def _keep_credentials(self, context: ServerContext, group: asyncio.TaskGroup) -> None:
        keeper = CredentialsKeeper(
            context.host, context.issuer, context.peer, addresses_of(self.config), self._member
        )
        group.create_task(keeper.run(), name="credentials")

        if self._member is not None and self._lineage.may_vote:
            following = keep_credentials(self._member, self._trust, context.host.store)
            group.create_task(following, name="etcd credentials")

    def _keep_lineage(self, host: NodeContext, store: EtcdStore, group: asyncio.TaskGroup) -> None:
        group.create_task(self._lineage.keep(host, store), name="lineage")
        group.create_task(watch_majority(host), name="majority")

    async def _voters(self, store: EtcdStore) -> tuple[MemberStatus, ...]:
        is_own = self.config.etcd.embedded is not None
        return await (store.admin.voters() if is_own else store.admin.status())

    def _heartbeats(self, stack: AsyncExitStack) -> Heartbeats:
        config = self.config
        addresses: dict[NetworkKind, str] = {"management": str(config.management.address)}
        if config.has_replication:
            addresses["replication"] = str(config.replication.address)
        heartbeats = Heartbeats(
            config.host, self._incarnation, addresses, config.heartbeat_port,
            heartbeat_ms=config.timings.heartbeat_ms, suspect_ms=config.timings.suspect_ms,
            clock=self._clock, on_change=self._on_peer_change,
        )  # fmt: skip
        stack.callback(heartbeats.close)
        return heartbeats

    def _context(
        self,
        record: Host,
        store: EtcdStore,
        libvirt: LibvirtInventory,
        stack: AsyncExitStack,
    ) -> HostContext:
        config = self.config
        netlink = Netlink()
        stack.push_async_callback(netlink.close)
        self._blobs = BlobStore(config.state_dir / "images", reserve_bytes=IMAGE_RESERVE_BYTES)
        self._blobs.prepare()
        self._routes = ReplicationRoutes(
            interface=config.replication.interface, address=config.replication.address, netlink=netlink
        )
        overlay = OverlayNetwork(
            config.network, vtep_address=config.management.address, overlay_address=config.overlay_address,
            underlay_interface=config.management.interface, netlink=netlink,
        )  # fmt: skip
        self._filter = PacketFilter(config, self._clock, overlay)
        self._bandwidth = Bandwidth(lambda: image_bytes_per_s(host))
        host = HostContext(
            config=config,
            record=record,
            store=store,
            mirror=Mirror(store, report=self._log.warning),
            events=EventLog(store, config.host, self._clock),
            clock=self._clock,
            heartbeats=self._heartbeats(stack),
            overlay=overlay,
            images=ImageCache(self._blobs, self._sessions, bandwidth=self._bandwidth),
            libvirt=libvirt,
            guests=GuestFolders(config.state_dir / "vms", config.guest_uids.guests),
            groups=find_groups(),
            failpoints=Failpoints.of(config.state_dir, os.environ),
            store_heard_at_s=self._clock.boottime_s(),
            log=self._log,
        )
        return host

    def _on_peer_change(self, peer: str) -> None:
        """Heartbeats begin before there are supervisors to wake."""
        if self._manager is not None:
            self._manager.wake_peers_of(peer)

    async def _join(self, host: HostContext, group: asyncio.TaskGroup) -> None:
        """Become part of the cluster: heartbeats at once, the rest when the store answers."""
        await self._filter.begin()
        await host.heartbeats.start()
        await host.overlay.ensure([])
        group.create_task(host.heartbeats.run(), name="heartbeats")
        group.create_task(host.mirror.run(), name="mirror")
        group.create_task(self._filter.run(host.mirror), name="packet filter")
        group.create_task(self._routes.keep(), name="replication routes")
        group.create_task(self._follow_hosts(host), name="peers")
        group.create_task(keep_present(host, self._keyring), name="presence")

    async def _serve(self, host: HostContext, store: EtcdStore, group: asyncio.TaskGroup) -> None:
        manager = Manager(host)
        self._manager = manager
        members = Cached(lambda: self._voters(store), MEMBERS_EVERY_S, self._clock.boottime_s)
        own_programs = programs_check(self.config, self._clock)
        self._images = ImageKeeper(host, self._blobs, manager.image_bases)

        async def checks() -> tuple[Check, ...]:
            underlay = await host.overlay.check_underlay()
            found = host_checks(host, await members(), underlay, self._filter.trouble, host.groups)
            left_out = self._lineage.known.left_out
            own = (await own_programs(), await self._images.check())
            return (*found, *own, *majority_checks(host, await members(), left_out))

        desired = DesiredState(store, host.mirror, self._clock, candidates)
        context = ServerContext(
            host=host,
            desired=desired,
            maintenance=MaintenanceWishes(store, host.mirror, self._clock, desired),
            supervisors=manager,
            blobs=self._blobs,
            sessions=self._sessions,
            members=members,
            checks=checks,
            override=Override(host, store, self._member, self._lineage, manager.find),
            audit=(audit := open_audit(host)),
            issuer=self._issuer(host),
            sweep_images=lambda is_dry: self._images.sweep_now(is_dry=is_dry),
            bandwidth=self._bandwidth,
        )
        host.peer = context.peer
        group.create_task(AuditKeeper(host, audit).run(), name="audit")
        self._keep_credentials(context, group)
        group.create_task(self._api(context).run(), name="api")
        verifier = Verifier(host, manager.supervisors, context.peer)
        group.create_task(verifier.run(), name="verifier")
        group.create_task(self._after_sync(context, manager, store, group), name="after sync")

    def _api(self, context: ServerContext) -> ApiServer:
        mirror = context.host.mirror
        gate = Gate(context.host, self._trust, revoked_by(mirror, self._keyring))
        mirror.subscribe(lambda key: gate.drop_ended() if not key or key.startswith(keys.REVOKED) else None)
        return ApiServer(
            build_app(context, gate), self._trust, path=api_socket(self.config),
            address=str(self.config.management.address), port=self.config.api_port, on_ready=self._on_ready,
        )  # fmt: skip

    async def _after_sync(
        self, context: ServerContext, manager: Manager, store: EtcdStore, group: asyncio.TaskGroup
    ) -> None:
        """What must not begin before the records have been read once: supervisors above all."""
        host = manager.host
        await host.mirror.synced.wait()
        while True:
            try:
                await publish_network(host, self.config.network)
                break
            except UnavailableError:
                await asyncio.sleep(0.5)
        with suppress(
            TimeoutError
        ):  # who sees what the supervisors do is to know that this agent is a new one
            async with asyncio.timeout(ANNOUNCED_S):
                await host.announced.wait()
        group.create_task(manager.run(), name="manager")
        group.create_task(NameService(host).run(), name="names")
        group.create_task(StorageWatch(host, manager).run(), name="storage")
        group.create_task(self._images.run(), name="images")
        election = Election(store, host.name, self.config.timings.leader_ttl_s)
        group.create_task(election.run(self._term(context, store)), name="election")

    def _term(self, context: ServerContext, store: EtcdStore) -> Callable[[], Awaitable[None]]:
        host = context.host
        arbiter = ArbiterPlace(host, store)

        async def lead() -> None:
            self._log.info("this agent leads the cluster now")

            async def keep_away() -> None:
                try:
                    await arbiter.keep_away()
                except UnavailableError as error:
                    self._log.warning("etcd's leadership could not be moved", why=str(error))

            controller = Controller(
                store, host.mirror, host.events, self._clock,
                backoff_s=self.config.timings.reprotect_backoff_s,
                report=self._log.info,
                keep_arbiter_away=keep_away,
                reach=host.failpoints.reach,
                promote=promoter(context),
            )  # fmt: skip
            await controller.run()

        return lead

    async def _follow_hosts(self, host: HostContext) -> None:
        """Heartbeats, flood lists and routes follow the hosts' records."""
        changed = when_peers_change(host, self._keyring)
        peer_keys = PeerKeys(self._keyring, self._log.warning)
        while True:
            await changed.wait()
            changed.clear()
            follow_peers(host, peer_keys)
            others = {
                n: found.value
                for n, found in host.mirror.hosts.items()
                if n != host.name and not found.value.is_witness
            }
            try:
                await host.overlay.ensure([other.management_address for other in others.values()])
                for other in others.values():
                    await self._routes.set_quickack(other.replication_address)
            except UnavailableError as error:
                self._log.warning("the networks to the peers could not be set up", why=str(error))
                asyncio.get_running_loop().call_later(1.0, changed.set)


def _raise_priority() -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except PermissionError:
        structlog.get_logger().warning(
            "the agent's priority could not be raised; a busy machine may delay it"
        )
    set_oom_score("self", AGENT)
