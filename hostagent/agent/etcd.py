"""What the agent does for etcd beside keeping its member: credentials that are up to date, the right leader."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress

import structlog

from hostagent.drivers.etcd import EmbeddedMember
from hostagent.drivers.trust import Trust
from hostagent.supervisor.node import NodeContext
from vdc.model.errors import UnavailableError, VdcError
from vdc.store import keys
from vdc.store.etcd import EtcdStore
from vdc.store.etcd_admin import MemberStatus
from vdc.store.protocol import LeaseId, Put, StateStore, Unchanged

ARBITER_REST_S = 10.0
RETRY_S = 10.0
TURN_S = 60  # more than a member takes to be healthy again, or to be given up (`wait_healthy`)
ALONE_S = 30.0


async def keep_credentials(member: EmbeddedMember, trust: Trust, store: StateStore) -> None:
    """The member knows what this host shows and trusts; that may have changed while no agent ran. Never returns."""
    log, changed = structlog.get_logger(), asyncio.Event()
    trust.subscribe(changed.set)
    while True:
        changed.clear()
        again_s: float | None = None
        try:
            await member.running()  # one that is not will be started with what is there then
            again_s = RETRY_S
            if await member.renew_credentials(Turn(store, member.host)):
                log.info("etcd was started again, to know the cluster's authorities")
            again_s = None
        except (VdcError, OSError) as error:
            log.warning("etcd does not know what this host shows now", why=str(error))
        with suppress(TimeoutError):
            async with asyncio.timeout(again_s):
                await changed.wait()


class Turn:
    """To be entered before this host's member is ended: all hosts hear of another authority in the same moment, and
    members that start again together are without a majority.

    One that does not come back keeps its turn for `TURN_S`. Where the store does not answer for `ALONE_S` there is no
    majority to lose, and the start may be what brings one.
    """

    def __init__(self, store: StateStore, host: str, *, poll_s: float = 0.5) -> None:
        self._store = store
        self._host = host
        self._poll_s = poll_s
        self._lease: LeaseId | None = None

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        heard_at_s = loop.time()
        while loop.time() - heard_at_s < ALONE_S:
            try:
                if await self._take():
                    return
                heard_at_s = loop.time()
            except UnavailableError:
                pass
            await asyncio.sleep(self._poll_s)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._lease is not None:
            with suppress(UnavailableError):
                await self._store.revoke_lease(self._lease)

    async def _take(self) -> bool:
        if await self._store.get(keys.MEMBER_TURN) is not None:
            return False
        lease = await self._store.grant_lease(TURN_S)
        put = Put(keys.MEMBER_TURN, self._host, lease)
        if (await self._store.commit([Unchanged(keys.MEMBER_TURN, 0)], [put])).succeeded:
            self._lease = lease
            return True
        await self._store.revoke_lease(lease)
        return False


class ArbiterPlace:
    """Where etcd's leadership belongs: on no host whose death would have to be arbitrated."""

    def __init__(self, host: NodeContext, store: EtcdStore) -> None:
        self._host = host
        self._store = store
        self._moved_at_s = 0.0

    async def keep_away(self) -> None:
        """Move etcd's leadership off hosts whose death would have to be arbitrated (failover.md), and drained ones."""
        host, store = self._host, self._store
        primaries = {found.value.primary for found in host.mirror.pairs.values()} | host.mirror.drained
        now = host.clock.boottime_s()
        if not primaries or now - self._moved_at_s < ARBITER_REST_S:
            return
        self._moved_at_s = now

        def addresses_of(names: Collection[str]) -> set[str]:
            return {
                host.mirror.hosts[name].value.management_address
                for name in names
                if name in host.mirror.hosts
            }

        members = await store.admin.status()
        leader = next((m for m in members if m.is_leader), None)
        witnesses = {name for name, found in host.mirror.hosts.items() if found.value.is_witness}
        avoid, drained = addresses_of(primaries), addresses_of(host.mirror.drained)
        best = addresses_of(witnesses - host.mirror.drained)
        if leader is None or _is_at(leader, best):
            return
        others = [m for m in members if m.is_healthy and not m.is_leader]
        target = next((m for m in others if _is_at(m, best)), None)
        if target is None and _is_at(leader, avoid):
            target = next((m for m in others if not _is_at(m, avoid)), None)
        if target is None and _is_at(leader, drained):  # it is about to be switched off
            target = next((m for m in others if not _is_at(m, drained)), None)
        if target is not None:
            await store.admin.move_leader(target.member_id)
            host.log.info("moved etcd's leadership off a host with a primary", to=target.endpoint)


def _is_at(member: MemberStatus, addresses: set[str]) -> bool:
    return any(f"//{address}:" in member.endpoint for address in addresses)
