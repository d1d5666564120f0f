"""A cluster with a leader, whose agents do what the records ask of them."""

from __future__ import annotations

import asyncio

import pytest
from protection_world import endophyte, observed
from test_control_controller import Cluster

from vdc.control.controller import Controller
from vdc.control.desired import DesiredState
from vdc.control.events import EventLog, read_events
from vdc.control.maintenance import MaintenanceWishes
from vdc.model.endophyte import CopyRole, CopyStage, Endophyte
from vdc.model.pair import Pair, SyncState
from vdc.protection.arbitration import mark_in_sync, promote_secondary
from vdc.store import keys
from vdc.store.protocol import Delete

ALONE = {"sync": "none", "nodes": 1}


class Drained(Cluster):
    """A cluster whose agents do at once what the records ask of them, a step with each `agents_act`."""

    def __init__(self):
        super().__init__()
        self.asked: list[str] = []
        self.refuses: Exception | None = None
        self.more: dict[str, dict[str, object]] = {}  # what a host says besides, as a primary's
        self.wishes = MaintenanceWishes(
            self.store,
            self.mirror,
            self.clock,
            DesiredState(self.store, self.mirror, self.clock, lambda name: (name,)),
        )
        self.new_leader()

    def new_leader(self):
        self.controller = Controller(
            self.store, self.mirror, EventLog(self.store, "h1", self.clock), self.clock,
            backoff_s=30.0, report=lambda sentence: None, promote=self.promote,
        )  # fmt: skip

    async def promote(self, name):
        self.asked.append(name)
        if self.refuses is not None:
            raise self.refuses
        before = self.mirror.pair(name)
        after = promote_secondary(before, reason="asked", request_id=f"p{len(self.asked)}", now="")
        await self.put((keys.pair(name), after.to_json()))

    async def add(self, name, number, **changes):
        made = endophyte(name, uid=f"uid-{number}", **changes)
        await self.put((keys.endophyte(name), made.to_json()))
        await self.settle()

    async def agents_act(self):
        """Every agent does what its part in each record asks for, and says so."""
        for name, found in list(self.mirror.pairs.items()):
            wanted, pair = self.mirror.endophyte(name), found.value
            if wanted is None or wanted.run.value == "stopped":
                continue
            if pair.secondary is not None and not wanted.wants_secondary:
                pair = pair.with_(epoch=pair.epoch + 1, secondary=None, sync="none")
                await self.put((keys.pair(name), pair.to_json()))
            if pair.sync is SyncState.SYNCING:
                pair = mark_in_sync(pair, request_id=f"m{pair.epoch}", now="")
                await self.put((keys.pair(name), pair.to_json()))
            for old in self.mirror.copies(name):
                if old.host not in pair.hosts:
                    await self._says(name, pair, old.host, None, CopyStage.ABSENT)
            stage = CopyStage.LOCKSTEP if pair.secondary else CopyStage.RUNNING
            await self._says(name, pair, pair.primary, CopyRole.PRIMARY, stage)
            if pair.secondary:
                await self._says(name, pair, pair.secondary, CopyRole.SECONDARY, stage)

    async def _says(self, name, pair, where, role, stage):
        more = self.more.get(where, {}) if role is CopyRole.PRIMARY else {}
        record = observed(where, role, stage, epoch=pair.epoch, uid=pair.uid, name=name, **more)
        await self.put((keys.observed(name, where), record.to_json()))

    async def step(self):
        await self.reconcile()
        await asyncio.gather(*self.controller._mover._promotions.values())
        await self.mirror.read_all()

    async def settle(self, passes=12):
        for _ in range(passes):
            await self.step()
            await self.agents_act()

    async def falls_silent(self, *names):
        await self.store.commit([], [Delete(keys.liveness(name)) for name in names])
        await self.mirror.read_all()

    async def put_away(self, name):
        await self.store.commit([], [Delete(keys.host(name)), Delete(keys.liveness(name))])
        await self.mirror.read_all()

    def of(self, name) -> Pair:
        return self.mirror.pair(name)

    def wish_of(self, name) -> Endophyte:
        return self.mirror.endophyte(name)

    async def codes(self, name):
        return [event.code for event in await read_events(self.store, name=name)]


@pytest.fixture
async def cluster():
    return await Drained().fill()
