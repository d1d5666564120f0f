"""Members of etcd that all have to start again do so one at a time."""

from __future__ import annotations

import asyncio

import pytest

from hostagent.agent import etcd
from hostagent.agent.etcd import Turn
from vdc.store import keys
from vdc.store.memory import MemoryStore

SOON_S = 0.005


async def test_one_after_the_other() -> None:
    store, down, most = MemoryStore(), 0, 0

    async def start_again(host: str) -> None:
        nonlocal down, most
        async with Turn(store.client(), host, poll_s=SOON_S):
            down += 1
            most = max(most, down)
            await asyncio.sleep(2 * SOON_S)
            down -= 1

    async with asyncio.timeout(30):
        await asyncio.gather(*(start_again(host) for host in ("h1", "h2", "h3")))
    assert most == 1
    assert await store.get(keys.MEMBER_TURN) is None


async def test_one_that_does_not_come_back_keeps_its_turn_for_a_while() -> None:
    store = MemoryStore()
    with pytest.raises(OSError, match="it does not start"):
        async with Turn(store, "h1", poll_s=SOON_S):
            raise OSError("it does not start")
    found = await store.get(keys.MEMBER_TURN)
    assert found is not None and found.value == "h1"
    store.advance(etcd.TURN_S + 1)
    async with asyncio.timeout(30), Turn(store, "h2", poll_s=SOON_S):
        pass


async def test_without_a_majority_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd, "ALONE_S", 5 * SOON_S)
    store = MemoryStore()
    store.cut_off()
    async with asyncio.timeout(30), Turn(store, "h1", poll_s=SOON_S):
        pass


async def test_whoever_has_the_turn_is_waited_for_while_the_store_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(etcd, "ALONE_S", 5 * SOON_S)
    store = MemoryStore()
    async with Turn(store, "h1", poll_s=SOON_S):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(20 * SOON_S), Turn(store, "h2", poll_s=SOON_S):
                pass
