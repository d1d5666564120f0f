"""Looks after this host's disks: bounds the guests' logs, says when room gets short and when it is back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hostagent.agent.manager import Manager
from hostagent.drivers.host.room import room
from hostagent.supervisor.host import HostContext
from vdc.model.event import Severity

LOOK_EVERY_S = 5.0


class StorageWatch:
    """One per agent."""

    def __init__(self, host: HostContext, manager: Manager) -> None:
        self._host = host
        self._manager = manager
        self._is_low = False  # as it was told

    async def run(self) -> None:
        """Never returns."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Once."""
        for supervisor in list(self._manager.supervisors.values()):
            await asyncio.to_thread(supervisor.copy.bound_logs)
        found = []
        for folder in (self._host.vms_dir, self._host.image_dir):
            with suppress(OSError):
                found.append(room(folder))
        low = next((one for one in found if one.is_low), None)
        if (low is None) == (not self._is_low):
            return
        self._is_low = low is not None
        if low is not None:
            await self._host.tell_of_node("disk-low", f"{self._host.name}: only {low.sentence}")
        else:
            sentence = f"{self._host.name} has room on its disks again"
            await self._host.tell_of_node("disk-room", sentence, Severity.NORMAL)
