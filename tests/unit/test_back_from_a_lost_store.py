"""Who could not ask the store for a while shows what was before, and must not pass that off as the present."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from protection_world import endophyte, host, observed, pair

from hostagent.agent import majority
from hostagent.supervisor.publisher import Publisher
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.protection.status import endophyte_status
from vdc.store import keys
from vdc.store.memory import MemoryStore
from vdc.store.mirror import Mirror
from vdc.store.protocol import Put

LOCKSTEP = observed("h1", CopyRole.PRIMARY, CopyStage.LOCKSTEP)
ISOLATED = observed("h1", CopyRole.PRIMARY, CopyStage.ISOLATED)


class Here:
    """The agent of h1, cut off, and the store as the others see it. Its mirror does not follow by itself."""

    def __init__(self) -> None:
        self.others = MemoryStore()
        self.store = self.others.client()
        self.mirror = Mirror(self.store, report=lambda sentence: None)
        self.is_store_lost = False
        self.quiet: set[str] = set()
        self.told: list[str] = []
        self.node: Any = self
        self.name, self.config = "h1", SimpleNamespace(etcd=SimpleNamespace(embedded=None))
        self.heartbeats = SimpleNamespace(is_silent=lambda name: name in self.quiet)
        self.clock = SimpleNamespace(boottime_s=lambda: 1.0)

    async def tell_of_node(self, code: str, *_: object) -> None:
        self.told.append(code)

    async def put(self, key: str, text: str) -> None:
        await self.others.commit([], [Put(key, text)])

    def status(self) -> Any:
        mirror = self.mirror
        return endophyte_status(
            endophyte(), mirror.pair("web"), mirror.copies("web"), mirror.alive, "", known=frozenset(mirror.hosts)
        )  # fmt: skip


@pytest.fixture
async def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setattr(majority, "LOOK_EVERY_S", 0.002)
    made = Here()
    for name in ("h1", "h2"):
        await made.put(keys.host(name), host(name).to_json())
        await made.put(keys.liveness(name), "1")
    await made.put(keys.pair("web"), pair(spares=()).to_json())
    await made.put(keys.observed("web", "h1"), LOCKSTEP.to_json())
    await made.put(
        keys.observed("web", "h2"), observed("h2", CopyRole.SECONDARY, CopyStage.LOCKSTEP).to_json()
    )
    await made.mirror.read_all()
    assert made.status().protection == "lockstep"
    return made


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


async def test_what_was_stored_is_shown_before_the_watch_tells_of_it(here: Here) -> None:
    """Between the first commit that succeeds and the first change that comes, the old record would be shown."""
    publisher = Publisher(here.node, "web", lambda: ISOLATED)
    async with running(publisher.run()):
        here.store.is_unavailable = True
        publisher.look()
        await until(lambda: here.mirror.unstored)
        assert here.status().phase == "Isolated"
        here.store.is_unavailable = False
        await until(lambda: not here.mirror.unstored)
    assert here.status().phase == "Isolated" and here.status().protection == "degraded"


async def test_the_store_is_lost_until_everything_was_read_anew(here: Here) -> None:
    async with running(majority.watch_majority(here.node)):
        here.is_store_lost, here.quiet = True, {"h2"}
        await until(lambda: here.mirror.silent)
        await here.put(keys.pair("web"), pair(3, primary="h2", secondary=None, spares=("h1",)).to_json())
        here.is_store_lost, here.quiet = False, set()
        await until(lambda: not here.mirror.is_current)
        await asyncio.sleep(0.02)
        assert here.told == ["majority-lost"] and here.mirror.silent == {"h2"}
        await here.mirror.read_all()
        await until(lambda: here.told == ["majority-lost", "majority-back"])
    assert here.mirror.silent == frozenset()
    assert (here.status().epoch, here.status().primary.host) == (3, "h2")


async def test_a_read_that_began_before_it_was_asked_for_does_not_count(here: Here) -> None:
    listing = here.store.list

    async def list_and_be_asked(prefix: str) -> Any:
        found = await listing(prefix)
        here.mirror.read_again()
        return found

    here.store.list = list_and_be_asked  # type: ignore[method-assign]
    await here.mirror.read_all()
    assert not here.mirror.is_current

    async def list_and_be_asked_once(prefix: str) -> Any:
        here.store.list = listing  # type: ignore[method-assign]
        return await list_and_be_asked(prefix)

    here.store.list = list_and_be_asked_once  # type: ignore[method-assign]
    async with running(here.mirror.run()):
        await until(lambda: here.mirror.is_current)
