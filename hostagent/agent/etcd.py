"""What the agent does for etcd beside keeping its member: credentials that are up to date, the right leader."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from hostagent.drivers.etcd import EmbeddedMember
from hostagent.drivers.trust import Trust
from hostagent.supervisor.node import NodeContext
from vdc.model.errors import VdcError
from vdc.store.etcd import EtcdStore
from vdc.store.etcd_admin import MemberStatus

ARBITER_REST_S = 10.0


async def keep_credentials(member: EmbeddedMember, trust: Trust) -> None:
    """The member knows what this host shows and trusts; that may have changed while no agent ran. Never returns."""
    log, changed = structlog.get_logger(), asyncio.Event()
    trust.subscribe(changed.set)
    while True:
        try:
            await member.running()
            if await member.renew_credentials():
                log.info("etcd was started again, to know the cluster's authorities")
        except (VdcError, OSError) as error:
            log.warning("etcd does not know what this host shows now", why=str(error))
        await changed.wait()
        changed.clear()


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
