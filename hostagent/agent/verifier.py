"""`protection.verifyEvery`: comparing both copies of the VMs whose primary is here, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from hostagent.supervisor.host import HostContext
from hostagent.supervisor.supervisor import Supervisor
from hostagent.supervisor.verification import Peer
from vdc.model.endophyte import CopyStage
from vdc.model.errors import VdcError
from vdc.model.event import Severity
from vdc.model.pair import Pair, SyncState

LOOK_EVERY_S = 5.0
RETRY_S = 60.0


class Verifier:
    """One per agent. The time counts from when a pair came into lockstep; a new agent begins anew."""

    def __init__(
        self, host: HostContext, supervisors: Mapping[str, Supervisor], peer: Callable[[str], Peer]
    ) -> None:
        self._host = host
        self._supervisors = supervisors
        self._peer = peer
        self._due_s: dict[tuple[str, int], float] = {}  # by uid and epoch

    async def run(self) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for name in self.due():
                await self._verify(name)

    def due(self) -> list[str]:
        """The VMs whose time has come."""
        present, names = dict[tuple[str, int], float](), []
        now = self._host.clock.boottime_s()
        for name, supervisor in sorted(self._supervisors.items()):
            endophyte, pair = self._host.mirror.endophyte(name), self._host.mirror.pair(name)
            every_s = endophyte.manifest.spec.protection.verify_every if endophyte else None
            if every_s is None or not self._leads(pair, supervisor):
                continue
            assert pair is not None
            key = (pair.uid, pair.epoch)
            present[key] = self._due_s.get(key, now + every_s)
            if now >= present[key]:
                names.append(name)
                present[key] = now + every_s
        self._due_s = present
        return names

    def _leads(self, pair: Pair | None, supervisor: Supervisor) -> bool:
        return (
            pair is not None
            and pair.primary == self._host.name
            and pair.sync is SyncState.IN_SYNC
            and supervisor.copy.state.stage is CopyStage.LOCKSTEP
        )

    async def _verify(self, name: str) -> None:
        pair = self._host.mirror.pair(name)
        if pair is None or pair.secondary is None or name not in self._supervisors:
            return
        try:
            await self._supervisors[name].verify(self._peer(pair.secondary), dry_run=False)
        except VdcError as error:
            self._due_s[pair.uid, pair.epoch] = self._host.clock.boottime_s() + RETRY_S
            await self._host.tell(
                name, "verification-failed", f"the copies could not be compared: {error}",
                epoch=pair.epoch, severity=Severity.WARNING,
            )  # fmt: skip
