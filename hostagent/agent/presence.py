"""This host in the store: its record, and the lease key that says that its agent lives."""

from __future__ import annotations

import asyncio

from hostagent.supervisor.node import NodeContext
from vdc.model.errors import UnavailableError
from vdc.model.host import Host
from vdc.model.network import Network
from vdc.security.keyring import Keyring
from vdc.store import keys
from vdc.store.protocol import LeaseId, LeaseLostError, Put, Unchanged

RENEWALS_PER_TTL = 3


async def publish_network(host: NodeContext, network: Network) -> None:
    """Store the overlay's record unless somebody has."""
    key = keys.network(network.name)
    await host.store.commit([Unchanged(key, 0)], [Put(key, network.to_json())])


async def keep_present(host: NodeContext, keyring: Keyring) -> None:
    """Publish the record and hold the lease, for ever. Each renewal is also how this agent knows that the
    store answers (`store_heard_at_s`)."""
    presence = Presence(host, keyring)
    while True:
        try:
            await presence.renew()
        except LeaseLostError:
            continue
        except UnavailableError as error:
            host.log.warning("the store does not answer", why=str(error))
        await asyncio.sleep(host.config.timings.liveness_ttl_s / RENEWALS_PER_TTL)


class Presence:
    """What is published: the record with the certificate that this host has now, by which its peers hear it."""

    def __init__(self, host: NodeContext, keyring: Keyring) -> None:
        self._host = host
        self._keyring = keyring
        self._ttl_s = host.config.timings.liveness_ttl_s
        self._lease: LeaseId | None = None
        self._certificate = ""  # as it is published

    async def renew(self) -> None:
        """Hold the lease for another while. LeaseLostError: it is to be called again at once; UnavailableError."""
        host = self._host
        try:
            if self._lease is None:
                lease = await host.store.grant_lease(self._ttl_s)
                await self._publish(lease)
                self._lease = lease
                host.announced.set()
            else:
                await host.store.renew_lease(self._lease, deadline_s=self._ttl_s / RENEWALS_PER_TTL)
                if self._certificate != self._keyring.credentials.certificate_pem:
                    await self._publish(self._lease)
        except LeaseLostError:
            self._lease = None
            raise
        host.store_heard_at_s = host.clock.boottime_s()
        await host.events.flush()

    async def _publish(self, lease: LeaseId) -> None:
        host, certificate = self._host, self._keyring.credentials.certificate_pem
        compares = [] if self._keyring.is_founding else [await self._claim()]
        present = await host.store.get(keys.host(host.name))
        kept = Host.from_json(present.value).schedulable if present else True
        record = host.record.with_(schedulable=kept, certificate=certificate)
        done = await host.store.commit(
            compares,
            [
                Put(keys.host(host.name), record.to_json()),
                Put(keys.liveness(host.name), str(record.incarnation), lease),
            ],
        )
        if not done.succeeded:
            raise UnavailableError(f"what the cluster knows of {host.name} has just changed")
        self._certificate = certificate

    async def _claim(self) -> Unchanged:
        """One that was removed does not come back by itself, whatever certificate it has made for itself meanwhile."""
        key = keys.machine(self._host.name)
        found = await self._host.store.get(key)
        if found is None:
            raise UnavailableError(
                f"{self._host.name} was removed from the cluster",
                hint="an admin makes a token, vdc cluster token create; here: hostagent join --anew --token TOKEN",
                code="host-removed",
            )
        return Unchanged(key, found.mod_revision)
