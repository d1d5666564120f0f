"""The one HTTP session to the other agents: by name, over TLS, from this host's management address.

`https://h2:7400` is whoever shows h2's certificate at the address that h2 has by the records. No DNS server is asked.
Connections are kept and used again, so that a call costs no handshake.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from hostagent.config import AgentConfig
from hostagent.drivers.trust import Trust
from vdc.store.mirror import Mirror

IDLE_S = 15.0  # that a connection without a request is kept: for less time than the other side does


class PeerSessions:
    """One per agent; close it at the end."""

    def __init__(self, trust: Trust, config: AgentConfig) -> None:
        self.mirror: Mirror | None = (
            None  # until it is set, and of hosts that it lacks, the configuration tells
        )
        self._trust = trust
        self._config = config
        self._session: aiohttp.ClientSession | None = None
        self._old: list[aiohttp.ClientSession] = []  # requests go on on them; their idle connections end
        trust.subscribe(self._renew)

    def __call__(self) -> aiohttp.ClientSession:
        """The session to use now."""
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=self._trust.client, resolver=NameResolver(self._address_of), use_dns_cache=False,
                local_addr=(str(self._config.management.address), 0), keepalive_timeout=IDLE_S,
            )  # fmt: skip
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    async def close(self) -> None:
        """Close all connections."""
        self._renew()
        await asyncio.gather(*(session.close() for session in self._old))

    def _address_of(self, name: str) -> str | None:
        found = self.mirror.hosts.get(name) if self.mirror is not None else None
        if found is not None:
            return found.value.management_address
        embedded = self._config.etcd.embedded
        address = embedded.members.get(name) if embedded is not None else None
        return str(address) if address is not None else None

    def _renew(self) -> None:
        if self._session is not None:
            self._old.append(self._session)
            self._session = None


class NameResolver(AbstractResolver):
    """The addresses of hosts by their names, from what this process knows: `address_of`."""

    def __init__(self, address_of: Callable[[str], str | None]) -> None:
        self._address_of = address_of

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See AbstractResolver; OSError where it is not known."""
        address = self._address_of(host)
        if not address:
            raise OSError(None, f"no host {host} is known")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        """Nothing is kept."""
