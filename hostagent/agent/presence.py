"""This host in the store: its record, and the lease key that says that its agent lives."""

from __future__ import annotations

import asyncio

from hostagent.supervisor.node import NodeContext
from vdc.model.errors import UnavailableError
from vdc.model.host import Host
from vdc.model.network import Network
from vdc.store import keys
from vdc.store.protocol import LeaseId, LeaseLostError, Put, Unchanged

RENEWALS_PER_TTL = 3


async def publish_network(host: NodeContext, network: Network) -> None:
    """Store the overlay's record unless somebody has."""
    key = keys.network(network.name)
    await host.store.commit([Unchanged(key, 0)], [Put(key, network.to_json())])


async def keep_present(host: NodeContext, record: Host) -> None:
    """Publish the record and hold the lease, for ever. Each renewal is also how this agent knows that the
    store answers (`store_heard_at_s`)."""
    ttl_s = host.config.timings.liveness_ttl_s
    lease: LeaseId | None = None
    while True:
        try:
            if lease is None:
                lease = await _announce(host, record, ttl_s)
                host.announced.set()
            else:
                await host.store.renew_lease(lease, deadline_s=ttl_s / RENEWALS_PER_TTL)
            host.store_heard_at_s = host.clock.boottime_s()
            await host.events.flush()
        except LeaseLostError:
            lease = None
            continue
        except UnavailableError as error:
            host.log.warning("the store does not answer", why=str(error))
        await asyncio.sleep(ttl_s / RENEWALS_PER_TTL)


async def _announce(host: NodeContext, record: Host, ttl_s: int) -> LeaseId:
    lease = await host.store.grant_lease(ttl_s)
    present = await host.store.get(keys.host(host.name))
    kept = Host.from_json(present.value).schedulable if present else True
    await host.store.commit(
        [],
        [
            Put(keys.host(host.name), record.with_(schedulable=kept).to_json()),
            Put(keys.liveness(host.name), record.incarnation, lease),
        ],
    )
    return lease
