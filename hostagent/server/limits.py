"""What one client, and all of them together, may take from the API: connections, time, a pace.

The limits hold before TLS and before HTTP: a connection too many is closed as soon as the kernel hands it over,
so nobody has to shake hands with it. Sizes of request lines, headers and bodies are aiohttp's own (8 KiB, 128
headers, `MAX_BODY_BYTES`); compressed bodies are not unpacked.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.web_runner import BaseSite

from vdc.model.errors import InvalidError

CONNECTIONS = 512
CONNECTIONS_PER_ADDRESS = 128  # above the 100 that one aiohttp session opens: a peer never meets it
HANDSHAKE_S = 5.0
IDLE_S = 30.0  # without a whole request: longer than our own clients keep a connection (15 s)
LINGER_S = 5.0  # for the rest of a body that nobody wants
STUCK_S = 30.0  # a peer that acknowledges nothing, or whose window stays shut
PACE_BYTES, PACE_S = 256 * 1024, 30.0  # the least that an upload brings in this time
CHUNK_BYTES = 1024**2
BACKLOG = 128

# For web.AppRunner.
RUNNER_OPTIONS: dict[str, Any] = {
    "keepalive_timeout": IDLE_S,
    "lingering_time": LINGER_S,
    "auto_decompress": False,
}


class _Admitted(socket.socket):
    """A connection that counts until it is closed. `of` is set by the listener."""

    of: tuple[Listener, str] | None = None

    def close(self) -> None:
        """As a socket; the place is free again."""
        if self.of is not None:
            listener, address = self.of
            self.of = None
            listener.leave(address)
        super().close()


class Listener(socket.socket):
    """A listening socket that hands out so many connections in all and per address, and closes the others."""

    most = CONNECTIONS
    most_per_address = CONNECTIONS_PER_ADDRESS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.open: Counter[str] = Counter()

    def accept(self) -> tuple[socket.socket, Any]:
        """As a socket; raises ConnectionAbortedError, which asyncio passes over, for one too many."""
        plain, peer = super().accept()
        connection = _Admitted(self.family, self.type, self.proto, fileno=plain.detach())
        address = peer[0] if isinstance(peer, tuple) else ""
        per_address = self.most_per_address if address else self.most
        if self.open.total() >= self.most or self.open[address] >= per_address:
            connection.close()
            raise ConnectionAbortedError(f"{address} has too many connections")
        self.open[address] += 1
        connection.of = (self, address)
        if address:
            milliseconds = int(STUCK_S * 1000)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        return connection, peer

    def dup(self) -> Listener:
        """The same socket once more, for another site; both count together."""
        other = super().dup()
        other.open = self.open
        other.setblocking(False)
        return other

    def leave(self, address: str) -> None:
        """One connection of this address has ended."""
        self.open[address] -= 1
        if self.open[address] <= 0:
            del self.open[address]


def listen(address: str, port: int) -> Listener:
    """A TCP listener. Raises OSError where the address cannot be bound."""
    listener = Listener(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def listen_unix(path: Path) -> Listener:
    """A listener at a path that is free. It is for its owner alone (0600) before anybody can connect."""
    listener = Listener(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


class LimitedSite(BaseSite):
    """`web.SockSite` with a deadline for the handshake."""

    def __init__(
        self, runner: web.BaseRunner, listener: Listener, *, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context, backlog=BACKLOG)
        self._listener = listener

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"{'https' if self._ssl_context else 'http'}://{self._listener.getsockname()}"

    async def start(self) -> None:
        """Begin to serve."""
        await super().start()
        server = self._runner.server
        assert server is not None
        self._server = await asyncio.get_running_loop().create_server(
            server,
            sock=self._listener,
            backlog=self._backlog,
            ssl=self._ssl_context,
            ssl_handshake_timeout=HANDSHAKE_S if self._ssl_context else None,
            ssl_shutdown_timeout=HANDSHAKE_S if self._ssl_context else None,
        )

    async def retire(self) -> None:
        """Accept no more. A connection that was accepted a moment ago still has to find its server open."""
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        await self.stop()


async def paced(body: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The chunks of a body that may be long. Raises InvalidError (`body-late`) where it comes drop by drop."""
    loop = asyncio.get_running_loop()
    left_s, received = PACE_S, 0
    while True:
        since = loop.time()
        try:
            async with asyncio.timeout(left_s):
                chunk = await body.read(CHUNK_BYTES)
        except TimeoutError as error:
            raise InvalidError(
                f"the body brought less than {PACE_BYTES // 1024} KiB in {PACE_S:g} s",
                hint="send it again",
                code="body-late",
            ) from error
        if not chunk:
            return
        left_s, received = left_s - (loop.time() - since), received + len(chunk)
        yield chunk
        if received >= PACE_BYTES:
            left_s, received = PACE_S, 0
