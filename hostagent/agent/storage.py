"""Looks after this host's disks: bounds the guests' logs, says when room gets short and when it is back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hostagent.agent.manager import Manager
from hostagent.drivers.host.room import room
from hostagent.supervisor.host import HostContext
from vdc.model.errors import UnavailableError
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
        name = self._host.name
        if low is not None:
            await self.tell(name, "disk-low", f"{name}: only {low.sentence}", Severity.WARNING)
        else:
            await self.tell(name, "disk-room", f"{name} has room on its disks again", Severity.NORMAL)

    async def tell(self, name: str, code: str, sentence: str, severity: Severity) -> None:
        """An event about this host; a store that does not answer is only logged."""
        self._host.log.warning(sentence, code=code)
        event = self._host.events.make(name, code, sentence, severity=severity, kind="host")
        try:
            await self._host.events.append(event)
        except UnavailableError as error:
            self._host.log.warning("an event could not be stored", code=code, why=str(error))
