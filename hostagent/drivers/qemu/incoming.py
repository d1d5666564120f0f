"""The secondary's end of the connection for memory and checkpoints.

QEMU listens on descriptors for everything but this: it wants one that is connected. So the agent accepts the
primary's connection, and QEMU begins with it. An agent that dies before leaves QEMU as it was; the next one
listens again. Whoever calls from another address than the primary's is hung up on: QEMU can begin only once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress

from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpError, QmpSession
from hostagent.drivers.qemu.sockets import HOST, Network

_log = logging.getLogger(__name__)


class Incoming:
    """Listens from when it is made (UnavailableError where it cannot) until the primary has called, or `close`."""

    def __init__(self, qmp: QmpSession, plan: LockstepPlan, network: Network = HOST) -> None:
        self._qmp = qmp
        self._plan = plan
        self._listening = network.listen(plan.secondary_address, plan.ports.migration)
        self._task = asyncio.create_task(self._accept(), name=f"{qmp.name} incoming")

    def close(self) -> None:
        """Listen no more; what QEMU has already stays. Idempotent."""
        self._task.cancel()
        self._listening.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        with self._listening as listening:
            while True:
                try:
                    connection, (address, *_) = await loop.sock_accept(listening)
                except OSError as error:
                    _log.warning("%s: waiting for the primary's memory: %s", self._qmp.name, error)
                    return
                with connection:
                    if address == self._plan.primary_address:
                        await self._begin(connection)
                        return
                _log.warning("%s: %s is not the primary and was hung up on", self._qmp.name, address)

    async def _begin(self, connection: socket.socket) -> None:
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._qmp.give(self._plan.migration, connection)
            await self._qmp.execute(
                Command.MIGRATE_INCOMING, {"uri": f"fd:{self._plan.migration}"}, deadline_s=5.0
            )
        except QmpError as error:  # the primary sees the end of its connection
            _log.warning("%s: the primary's memory cannot be received: %s", self._qmp.name, error)
