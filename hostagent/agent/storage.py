"""Looks after this host's disks: bounds the guests' logs, says when room gets short and when it is back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hostagent.agent.manager import Manager
from hostagent.drivers.host.room import Room, room
from hostagent.supervisor.host import HostContext
from vdc.model.errors import UnavailableError
from vdc.model.event import Severity

LOOK_EVERY_S = 5.0


class StorageWatch:
    """One per agent."""

    def __init__(self, host: HostContext, manager: Manager) -> None:
        self._host = host
        self._manager = manager
        self._low: Room | None = None  # as it was told

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
        if (low is None) == (self._low is None):
            return
        if low is not None:
            told = await self._tell("disk-low", low.sentence, Severity.WARNING, low.free_bytes)
        else:
            told = await self._tell("disk-room", found[0].sentence if found else "", Severity.NORMAL, 0)
        if told:
            self._low = low

    async def _tell(self, code: str, sentence: str, severity: Severity, free_bytes: int) -> bool:
        host = self._host
        host.log.warning(sentence, code=code)
        event = host.events.make(
            host.name, code, f"{host.name}: {sentence}", severity=severity, kind="host",
            figures={"free_bytes": float(free_bytes)},
        )  # fmt: skip
        try:
            await host.events.append(event)
        except UnavailableError:
            return False  # said again when the store answers
        return True
