"""Requests to the members of an etcd cluster over the JSON gateway: deadlines, and whom to ask first.

A request's failure says what it means for the caller (`etcd_errors.Meaning`). Where no connection could be
made, nothing was sent, so it certainly had no effect. A member that failed or hung is asked last for a while.

Danger: an endpoint's process can hang while its kernel still acknowledges; only deadlines notice that.
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
import ssl as ssl_module
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from vdc.store.etcd_codec import Json, parse_object
from vdc.store.etcd_errors import CallError, Meaning, error_of

_PENALTY_S = 5.0
_CONNECT_TIMEOUT_S = 0.5
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_PROBES = 3, 1, 3
# Without a leader a member answers at once instead of keeping the request (rpctypes.MetadataHasLeader).
_REQUIRE_LEADER = {"Grpc-Metadata-hasleader": "true"}


class Endpoints:
    """In which order the members are asked: as given, the ones with recent trouble last."""

    def __init__(self, addresses: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        if not addresses:
            raise ValueError("an etcd client needs at least one endpoint")
        self._addresses = tuple(address.rstrip("/") for address in addresses)
        self._clock = clock
        self._trouble: dict[str, float] = {}
        self._heard: dict[str, float] = {}

    @property
    def all(self) -> tuple[str, ...]:
        """Every endpoint, as given."""
        return self._addresses

    def use_only(self, addresses: Sequence[str]) -> None:
        """From now on ask these alone."""
        if not addresses:
            raise ValueError("an etcd client needs at least one endpoint")
        self._addresses = tuple(address.rstrip("/") for address in addresses)

    def in_order(self) -> tuple[str, ...]:
        """Every endpoint, the best first."""
        now = self._clock()
        recent = {one: at for one, at in self._trouble.items() if now - at < _PENALTY_S}
        return tuple(sorted(self._addresses, key=lambda one: recent.get(one, 0.0)))

    def failed(self, endpoint: str) -> None:
        """It refused, hung or broke off."""
        self._trouble[endpoint] = self._clock()

    def heard(self, endpoint: str) -> None:
        """It answered."""
        self._trouble.pop(endpoint, None)
        self._heard[endpoint] = self._clock()

    def silence_s(self, endpoint: str) -> float:
        """Since when nothing was heard of it."""
        return self._clock() - self._heard.get(endpoint, float("-inf"))


class Gateway:
    """One HTTP session to all members."""

    def __init__(self, endpoints: Endpoints, ssl: ssl_module.SSLContext | None = None) -> None:
        self.endpoints = endpoints
        self._ssl = ssl
        self._session: aiohttp.ClientSession | None = None
        self._old: list[aiohttp.ClientSession] = []  # requests go on on them; their idle connections end
        self._closing: asyncio.Future[None] | None = None
        self.is_closed = False

    @property
    def closing(self) -> asyncio.Future[None]:
        """Done when `close` is called. The session's own closing does not wake those who read a stream."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
        return self._closing

    async def call(
        self, endpoint: str, path: str, body: Json, *, timeout_s: float, requires_leader: bool = True
    ) -> Json:
        """Send one request to one member. Raises CallError, also where `timeout_s` passes."""
        connect_s = min(_CONNECT_TIMEOUT_S, timeout_s / 3)
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=connect_s)
        async with self._translated(endpoint):
            response = await self._post(endpoint, path, body, timeout, requires_leader)
            async with response:
                answer = parse_object(await response.read())
            if response.status != 200 or "error" in answer:
                raise error_of(endpoint, response.status, answer)
        self.endpoints.heard(endpoint)
        return answer

    @asynccontextmanager
    async def stream(
        self, endpoint: str, path: str, body: Json, *, connect_timeout_s: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Open a streaming answer. Raises CallError, also where it breaks off while it is read."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(connect_timeout_s, _CONNECT_TIMEOUT_S))
        async with self._translated(endpoint):
            async with asyncio.timeout(connect_timeout_s):
                response = await self._post(endpoint, path, body, timeout, True)
            try:
                if response.status != 200:
                    raise error_of(endpoint, response.status, parse_object(await response.read()))
                self.endpoints.heard(endpoint)
                yield response.content
            finally:
                response.close()

    async def close(self) -> None:
        """Close every connection; streams end."""
        self.is_closed = True
        if not self.closing.done():
            self.closing.set_result(None)
        for session in (self._session, *self._old):
            if session is not None:
                await session.close()

    def use_ssl(self, ssl: ssl_module.SSLContext) -> None:
        """See EtcdStore."""
        self._ssl = ssl
        if self._session is not None:
            self._old.append(self._session)
            self._session = None

    async def _post(
        self, endpoint: str, path: str, body: Json, timeout: aiohttp.ClientTimeout, requires_leader: bool
    ) -> aiohttp.ClientResponse:
        if self.is_closed:
            raise CallError(endpoint, Meaning.NO_EFFECT, "this client was closed")
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=0, socket_factory=_keepalive_socket, ssl=self._ssl if self._ssl else True
            )
            self._session = aiohttp.ClientSession(connector=connector)
        headers = {"Content-Type": "application/json", **(_REQUIRE_LEADER if requires_leader else {})}
        data = io.BytesIO(json.dumps(body, separators=(",", ":")).encode())
        return await self._session.post(
            endpoint + path, data=data, headers=headers, timeout=timeout, allow_redirects=False
        )

    @asynccontextmanager
    async def _translated(self, endpoint: str) -> AsyncIterator[None]:
        try:
            yield
        except CallError as error:
            if error.meaning in (Meaning.NO_EFFECT, Meaning.UNKNOWN):
                self.endpoints.failed(endpoint)
            raise
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self.endpoints.failed(endpoint)
            text = str(error) or "no connection in time"
            raise CallError(endpoint, Meaning.NO_EFFECT, text) from error
        except TimeoutError as error:
            self.endpoints.failed(endpoint)
            raise CallError(endpoint, Meaning.UNKNOWN, "no answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self.endpoints.failed(endpoint)
            text = str(error) or type(error).__name__
            raise CallError(endpoint, Meaning.UNKNOWN, f"the answer broke off: {text}") from error


def _keepalive_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A connection whose other side lost power is noticed by the kernel, also on a silent watch."""
    family, kind, protocol, _, _ = address
    connection = socket.socket(family, kind, protocol)
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    return connection
