"""Connections that the agent makes and QEMU keeps: QEMU itself has no network.

The agent binds, listens and connects in the host's network and hands a duplicate over (`QmpSession.give`); its own
is closed then, so a connection lives and dies with its QEMU, whatever becomes of the agent. All that is handed over
is marked as such for the packet filter (drivers/net/underlay.py): it stays what it is.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from hostagent.drivers.net.underlay import HANDED_OVER
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpSession
from hostagent.drivers.qemu.steps import poll
from vdc.model.errors import UnavailableError

CONNECT_S: Final = 5.0
HANDSHAKE_S: Final = 5.0
_RETRY_S: Final = 0.1
_BACKLOG: Final = 1

MakeSocket = Callable[[], socket.socket]


def tcp_socket() -> socket.socket:
    """A socket in the network namespace of the caller."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


@dataclass(frozen=True, slots=True)
class Network:
    """Where the connections are made: that of the process, unless `make_socket` makes sockets of another one."""

    make_socket: MakeSocket = tcp_socket

    def listen(self, address: str, port: int) -> socket.socket:
        """A socket that listens. Raises UnavailableError (`port-taken`)."""
        sock = self.make_socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _mark(sock)  # what it accepts has its mark
            sock.bind((address, port))
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise UnavailableError(
                f"cannot listen on {address}:{port} for lockstep: {error.strerror}", code="port-taken"
            ) from error
        return sock

    async def connect(self, address: str, port: int, *, patience_s: float = 0.0) -> socket.socket:
        """A connected socket; for `patience_s` a refusal is not the last word. Raises UnavailableError."""
        deadline_s = max(patience_s, CONNECT_S)
        give_up_at, patient_until = time.monotonic() + deadline_s, time.monotonic() + patience_s
        while True:
            sock = self.make_socket()
            try:
                async with asyncio.timeout(max(0.0, give_up_at - time.monotonic())):
                    await asyncio.get_running_loop().sock_connect(sock, (address, port))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _mark(sock)  # only now: what is marked cannot connect
                return sock
            except OSError as error:  # TimeoutError is one
                sock.close()
                if not isinstance(error, ConnectionRefusedError) or time.monotonic() >= patient_until:
                    why = error.strerror or f"no answer within {deadline_s:g} s"
                    raise UnavailableError(
                        f"cannot connect to {address}:{port} for lockstep: {why}", code="peer-unreachable"
                    ) from error
            except BaseException:
                sock.close()
                raise
            await asyncio.sleep(_RETRY_S)


def _mark(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, HANDED_OVER)


HOST: Final = Network()


async def give_listening(qmp: QmpSession, name: str, network: Network, address: str, port: int) -> None:
    """Let QEMU have a socket that listens. Raises as `Network.listen`, and a QmpError."""
    with network.listen(address, port) as sock:
        await qmp.give(name, sock)


async def connected(qmp: QmpSession, names: Iterable[str]) -> None:
    """Return when these chardevs have their peer, certificates included. Raises UnavailableError."""
    for name in names:

        async def is_connected(name: str = name) -> bool:
            what = {"path": f"/chardevs/{name}", "property": "connected"}
            return bool(await qmp.execute(Command.QOM_GET, what))

        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await poll(is_connected, interval_s=0.02)
        except TimeoutError as error:
            raise UnavailableError(
                f"the other copy's connection ({name}) did not come about within {HANDSHAKE_S:g} s",
                code="handshake-failed",
                hint="the log of QEMU says whether its certificate was refused",
            ) from error


def nested(name: str) -> dict[str, Any]:
    """A descriptor as the older of QEMU's commands want it named."""
    return {"type": "fd", "data": {"str": name}}


def flat(name: str) -> dict[str, str]:
    """A descriptor as the newer ones do."""
    return {"type": "fd", "str": name}
