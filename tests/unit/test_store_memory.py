"""The conformance suite over MemoryStore, and its fault injection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from tests.unit.store_conformance import StoreConformance, put, record, take, values, watching
from vdc.store.arbitration import Lost, Won, arbitrate
from vdc.store.memory import Fault, MemoryStore
from vdc.store.protocol import (
    ChangeKind,
    Delete,
    Put,
    StoreUnavailableError,
    Unchanged,
    UnknownOutcomeError,
)


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    yield store
    await store.close()


@pytest.fixture
async def other(store: MemoryStore) -> AsyncIterator[MemoryStore]:
    other = store.client()
    yield other
    await other.close()


class TestMemoryStore(StoreConformance):
    """The shared suite."""

    @pytest.fixture(autouse=True)
    def _remember(self, store: MemoryStore) -> None:
        self.store = store

    async def expire_leases(self, seconds: float) -> None:
        self.store.advance(seconds)

    async def compact(self, revision: int) -> None:
        self.store.cluster.compact(revision)


class Clock:
    """Stands still unless it is told how far each reading moves it."""

    def __init__(self, step_s: float = 0.01) -> None:
        self.now = 0.0
        self.step_s = step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


async def swap(store: MemoryStore, revision: int, name: str = "mine") -> Won | Lost:
    return await arbitrate(store, "/t/p", revision, record(name), name, 1.0, clock=Clock())


@pytest.mark.parametrize(
    ("fault", "error", "is_written"),
    [
        (Fault.UNAVAILABLE, StoreUnavailableError, False),
        (Fault.LOST_REQUEST, UnknownOutcomeError, False),
        (Fault.LOST_ANSWER, UnknownOutcomeError, True),
    ],
)
async def test_a_fault_has_the_effect_that_it_is_named_after(
    store: MemoryStore, fault: Fault, error: type[Exception], is_written: bool
) -> None:
    store.fail_next(fault)
    with pytest.raises(error):
        await store.commit([], [Put("/t/a", "1")])
    assert (await store.get("/t/a") is not None) is is_written


async def test_a_late_commit_arrives_when_it_is_let(store: MemoryStore) -> None:
    store.fail_next(Fault.LATE)
    with pytest.raises(UnknownOutcomeError):
        await store.commit([Unchanged("/t/a", 0)], [Put("/t/a", "late")])
    assert await store.get("/t/a") is None
    store.cluster.apply_delayed()
    item = await store.get("/t/a")
    assert item and item.value == "late"


async def test_a_client_that_is_cut_off_reads_nothing_and_catches_up(
    store: MemoryStore, other: MemoryStore
) -> None:
    async with watching(store, "/t/", 0) as changes:
        store.cut_off()
        await put(other, "/t/a", "1")
        with pytest.raises(StoreUnavailableError):
            await store.get("/t/a")
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        assert not waiting.done()
        store.cut_off(is_unavailable=False)
        assert values([await waiting]) == ["1"]


async def test_broken_watches_resync_once(store: MemoryStore) -> None:
    async with watching(store, "/t/", 0) as changes:
        store.break_watches()
        (resync,) = await take(changes, 1)
        assert resync.kind is ChangeKind.RESYNC
        await put(store, "/t/a", "1")
        assert values(await take(changes, 1)) == ["1"]


async def test_the_fault_hook_sees_every_request(store: MemoryStore) -> None:
    seen: list[str] = []
    store.fault_hook = seen.append  # type: ignore[assignment]
    await store.commit([], [])
    await store.list("/t/")
    await store.renew_lease(await store.grant_lease(1))
    assert seen == ["commit", "list", "grant_lease", "renew_lease"]


@pytest.mark.parametrize("fault", list(Fault))
async def test_arbitration_gets_over_one_fault(store: MemoryStore, fault: Fault) -> None:
    revision = await put(store, "/t/p", record("start"))
    store.fail_next(fault, "commit_everywhere")
    assert await swap(store, revision) == Won(revision + 1)
    store.cluster.apply_delayed()
    item = await store.get("/t/p")
    assert item and item.mod_revision == revision + 1


@pytest.mark.parametrize("fault", [Fault.LOST_REQUEST, Fault.UNAVAILABLE])
async def test_arbitration_loses_to_whoever_came_while_it_was_in_doubt(
    store: MemoryStore, other: MemoryStore, fault: Fault
) -> None:
    revision = await put(store, "/t/p", record("start"))
    store.fail_next(fault, "commit_everywhere")
    assert await swap(other, revision, "theirs") == Won(revision + 1)
    lost = await swap(store, revision)
    assert isinstance(lost, Lost) and lost.current and lost.current.value == record("theirs")


async def test_an_arbitration_that_stays_in_doubt_says_so(store: MemoryStore) -> None:
    revision = await put(store, "/t/p", record("start"))
    store.fail_next(Fault.LATE, "commit_everywhere", count=1000)
    with pytest.raises(UnknownOutcomeError):
        await swap(store, revision)
    store.cluster.apply_delayed()
    item = await store.get("/t/p")
    assert item and item.value == record("mine")  # which is why it must not be called lost


async def test_an_arbitration_without_any_effect_says_so(store: MemoryStore) -> None:
    revision = await put(store, "/t/p", record("start"))
    store.cut_off()
    with pytest.raises(StoreUnavailableError):
        await swap(store, revision)


async def test_an_arbitration_whose_own_copy_won_is_in_doubt_until_it_can_read(store: MemoryStore) -> None:
    revision = await put(store, "/t/p", record("start"))
    store.fail_next(Fault.REPEATED, "commit_everywhere")
    store.fail_next(Fault.UNAVAILABLE, "get", count=1000)
    with pytest.raises(UnknownOutcomeError):
        await swap(store, revision)


async def test_compacted_history_leaves_an_arbitration_in_doubt(store: MemoryStore) -> None:
    revision = await put(store, "/t/p", record("start"))
    await put(store, "/t/p", record("mine"))
    store.cluster.compact(await put(store, "/t/p", record("theirs")))
    with pytest.raises(UnknownOutcomeError):
        await swap(store, revision)


async def test_compacted_history_of_a_deleted_key_leaves_it_in_doubt_too(store: MemoryStore) -> None:
    revision = await put(store, "/t/p", record("start"))
    await put(store, "/t/p", record("mine"))
    store.cluster.compact((await store.commit([], [Delete("/t/p")])).revision)
    with pytest.raises(UnknownOutcomeError):
        await swap(store, revision)


async def test_an_id_that_was_copied_into_a_later_change_does_not_pass_for_the_own_value(
    store: MemoryStore,
) -> None:
    revision = await put(store, "/t/p", record("start"))
    first = await put(store, "/t/p", record("mine"))
    await put(store, "/t/p", record("mine", spares="changed"))
    won = await swap(store, revision)
    assert isinstance(won, Won) and won.revision == first and won.is_superseded
    assert won.current and won.current.value == record("mine", spares="changed")


async def test_a_watch_from_now_begins_with_the_call(store: MemoryStore) -> None:
    async with aclosing(store.watch("/t/")) as changes:
        await put(store, "/t/a", "1")
        assert values(await take(changes, 1)) == ["1"]
