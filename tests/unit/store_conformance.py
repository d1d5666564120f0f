"""What every StateStore must do. Mixed into a test class that provides `store`, `other` and the two hooks.

`other` is a second client of the same cluster. Nothing here sleeps; waiting is for the store alone.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager

import pytest

from vdc.model.errors import BugError, InvalidError
from vdc.store.arbitration import Lost, Won, arbitrate
from vdc.store.protocol import (
    Change,
    ChangeKind,
    Delete,
    LeaseId,
    LeaseLostError,
    Put,
    RevisionGoneError,
    StateStore,
    Unchanged,
)

WAIT_S = 10.0
ROUNDS = 50
CONTENDERS = 5


async def put(store: StateStore, key: str, value: str) -> int:
    return (await store.commit([], [Put(key, value)])).revision


def record(request_id: str, **fields: object) -> str:
    return json.dumps({"request_id": request_id, **fields})


@asynccontextmanager
async def watching(store: StateStore, prefix: str, revision: int) -> AsyncIterator[AsyncIterator[Change]]:
    async with aclosing(store.watch(prefix, from_revision=revision)) as changes, asyncio.timeout(WAIT_S):
        yield changes


async def take(changes: AsyncIterator[Change], count: int) -> list[Change]:
    return [await anext(changes) for _ in range(count)]


def values(changes: Iterable[Change]) -> list[str]:
    return [one.item.value for one in changes if one.item]


class StoreConformance:
    """The suite."""

    async def expire_leases(self, seconds: float) -> None:
        """Let that much time pass for leases."""
        raise NotImplementedError

    async def compact(self, revision: int) -> None:
        """Forget the history before a revision."""
        raise NotImplementedError

    async def test_is_a_state_store(self, store: StateStore) -> None:
        assert isinstance(store, StateStore)

    async def test_reads_what_was_written(self, store: StateStore, other: StateStore) -> None:
        text = 'grüße "\\\n\x00 🖥'
        revision = await put(store, "/t/ä key", text)
        item = await other.get("/t/ä key")
        assert item is not None
        assert (item.key, item.value, item.mod_revision, item.create_revision, item.lease) == (
            "/t/ä key", text, revision, revision, None,
        )  # fmt: skip

    async def test_an_absent_key_is_none(self, store: StateStore) -> None:
        assert await store.get("/t/absent") is None

    async def test_a_key_keeps_its_create_revision_until_deleted(self, store: StateStore) -> None:
        first = await put(store, "/t/a", "1")
        second = await put(store, "/t/a", "2")
        item = await store.get("/t/a")
        assert item and (item.create_revision, item.mod_revision) == (first, second)
        await store.commit([], [Delete("/t/a")])
        third = await put(store, "/t/a", "3")
        item = await store.get("/t/a")
        assert item and item.create_revision == third == second + 2

    async def test_reads_the_past(self, store: StateStore) -> None:
        first = await put(store, "/t/a", "1")
        second = await put(store, "/t/a", "2")
        deleted = (await store.commit([], [Delete("/t/a")])).revision
        await put(store, "/t/a", "3")
        seen = [
            item and item.value
            for item in [await store.get("/t/a", at_revision=at) for at in (first, second, deleted)]
        ]
        assert seen == ["1", "2", None]
        assert await store.get("/t/a", at_revision=first - 1) is None

    async def test_compacted_past_is_an_error(self, store: StateStore) -> None:
        first = await put(store, "/t/a", "1")
        await put(store, "/t/b", "1")
        third = await put(store, "/t/a", "2")
        await self.compact(third)
        with pytest.raises(RevisionGoneError):
            await store.get("/t/a", at_revision=first)
        item = await store.get("/t/b", at_revision=third)
        assert item and item.value == "1"

    async def test_lists_a_prefix_in_key_order_at_one_revision(self, store: StateStore) -> None:
        for key in ("/t/b", "/t/a/2", "/t/a/10", "/t2/x", "/t/é", "/t/z"):
            revision = await put(store, key, key)
        listing = await store.list("/t/")
        assert [item.key for item in listing.items] == ["/t/a/10", "/t/a/2", "/t/b", "/t/z", "/t/é"]
        assert listing.revision == revision
        assert (await store.list("/t/none")).items == ()

    async def test_commit_applies_all_or_nothing(self, store: StateStore) -> None:
        revision = await put(store, "/t/a", "1")
        good = await store.commit(
            [Unchanged("/t/a", revision), Unchanged("/t/new", 0)],
            [Put("/t/a", "2"), Put("/t/new", "n"), Delete("/t/absent")],
        )
        assert good.succeeded and good.revision == revision + 1
        listing = await store.list("/t/")
        assert {item.mod_revision for item in listing.items} == {good.revision}
        bad = await store.commit(
            [Unchanged("/t/a", good.revision), Unchanged("/t/new", 0)],
            [Put("/t/a", "3"), Delete("/t/new")],
        )
        assert not bad.succeeded and bad.revision == good.revision
        assert await store.list("/t/") == listing

    async def test_deletes_one_key_or_a_prefix(self, store: StateStore) -> None:
        for key in ("/t/a", "/t/a/1", "/t/a/2", "/t/b"):
            await put(store, key, "x")
        before = (await store.list("/t/")).revision
        await store.commit([], [Delete("/t/a")])
        assert [item.key for item in (await store.list("/t/")).items] == ["/t/a/1", "/t/a/2", "/t/b"]
        result = await store.commit([], [Delete("/t/a/", is_prefix=True)])
        assert result.revision == before + 2
        assert [item.key for item in (await store.list("/t/")).items] == ["/t/b"]

    async def test_a_commit_that_changes_nothing_makes_no_revision(self, store: StateStore) -> None:
        revision = await put(store, "/t/a", "1")
        result = await store.commit([Unchanged("/t/a", revision)], [Delete("/t/absent")])
        assert result.succeeded and result.revision == revision

    @pytest.mark.parametrize(
        "operations",
        [
            [Put("/t/a", "1"), Put("/t/a", "2")],
            [Put("/t/a", "1"), Delete("/t/", is_prefix=True)],
            [Put(f"/t/{number}", "") for number in range(129)],
            [Put("/t/a", "x" * 2_000_000)],
            [Put("", "x")],
        ],
        ids=["put twice", "put and delete", "too many", "too large", "no key"],
    )
    async def test_impossible_commits_are_refused(
        self, store: StateStore, operations: list[Put | Delete]
    ) -> None:
        with pytest.raises(InvalidError):
            await store.commit([], operations)
        assert (await store.list("/t/")).items == ()

    async def test_values_of_a_megabyte_pass(self, store: StateStore) -> None:
        revision = await put(store, "/t/big", "b" * 1_000_000)
        async with watching(store, "/t/", revision) as changes:
            assert values(await take(changes, 1)) == ["b" * 1_000_000]

    async def test_a_lease_takes_its_keys_along(self, store: StateStore) -> None:
        lease = await store.grant_lease(60)
        await store.commit([], [Put("/t/a", "1", lease), Put("/t/b", "1", lease), Put("/t/c", "1")])
        item = await store.get("/t/a")
        assert item and item.lease == lease
        await put(store, "/t/b", "detached")
        await store.revoke_lease(lease)
        assert [item.key for item in (await store.list("/t/")).items] == ["/t/b", "/t/c"]
        await store.revoke_lease(lease)
        with pytest.raises(LeaseLostError):
            await store.renew_lease(lease)

    async def test_a_lease_expires_unless_renewed(self, store: StateStore) -> None:
        lost, kept = await store.grant_lease(2), await store.grant_lease(2)
        await store.commit([], [Put("/t/lost", "", lost), Put("/t/kept", "", kept)])
        revision = (await store.list("/t/")).revision
        for _ in range(5):
            await self.expire_leases(1)
            await store.renew_lease(kept)
        async with watching(store, "/t/", revision + 1) as changes:
            (change,) = await take(changes, 1)
        assert change.kind is ChangeKind.DELETE and change.item and change.item.key == "/t/lost"
        assert await store.get("/t/kept") is not None

    async def test_a_commit_under_a_lost_lease_writes_nothing(self, store: StateStore) -> None:
        with pytest.raises(LeaseLostError):
            await store.commit([], [Put("/t/a", "1"), Put("/t/b", "1", LeaseId(4242))])
        assert (await store.list("/t/")).items == ()

    async def test_watch_replays_from_a_revision_and_goes_on(
        self, store: StateStore, other: StateStore
    ) -> None:
        revision = await put(store, "/t/a", "1")
        await store.commit([], [Put("/t/a", "2"), Put("/t/b", "3"), Put("/other", "x")])
        async with watching(store, "/t/", revision) as changes:
            past = await take(changes, 3)
            assert values(past) == ["1", "2", "3"]
            assert [one.revision for one in past] == [revision, revision + 1, revision + 1]
            await other.commit([], [Delete("/t/", is_prefix=True)])
            gone = await take(changes, 2)
        assert [one.kind for one in gone] == [ChangeKind.DELETE] * 2
        assert [(one.item.key, one.item.value) for one in gone if one.item] == [("/t/a", ""), ("/t/b", "")]

    async def test_watches_do_not_disturb_each_other(self, store: StateStore) -> None:
        revision = (await store.list("/t/")).revision
        async with watching(store, "/t/a", revision + 1) as one, watching(store, "/t/b", revision + 1) as two:
            await put(store, "/t/a", "1")
            await put(store, "/t/b", "2")
            assert values(await take(two, 1)) == ["2"]
            assert values(await take(one, 1)) == ["1"]

    async def test_watch_of_compacted_history_resyncs_and_goes_on(self, store: StateStore) -> None:
        first = await put(store, "/t/a", "1")
        for number in range(5):
            last = await put(store, "/t/a", str(number))
        await self.compact(last)
        async with watching(store, "/t/", first) as changes:
            (resync,) = await take(changes, 1)
            assert (resync.kind, resync.item) == (ChangeKind.RESYNC, None)
            assert resync.revision >= last
            await put(store, "/t/a", "after")
            assert values(await take(changes, 1)) == ["after"]

    async def test_closing_the_store_ends_its_watches(self, other: StateStore) -> None:
        async with watching(other, "/t/", 0) as changes:
            waiting = asyncio.ensure_future(anext(changes, None))
            await asyncio.wait([waiting], timeout=0.05)
            await other.close()
            assert await waiting is None

    async def test_commit_everywhere_applies_once(self, store: StateStore) -> None:
        revision = await put(store, "/t/a", "0")
        for number in range(10):
            result = await store.commit_everywhere([Unchanged("/t/a", revision)], [Put("/t/a", str(number))])
            item = await store.get("/t/a")
            assert item and item.value == str(number) and item.mod_revision == revision + 1
            if result.succeeded:
                assert result.revision == item.mod_revision
            revision = item.mod_revision

    async def test_commit_everywhere_refuses_what_could_be_applied_twice(self, store: StateStore) -> None:
        with pytest.raises(BugError):
            await store.commit_everywhere([Unchanged("/t/a", 0)], [Put("/t/b", "x")])
        with pytest.raises(BugError):
            await store.commit_everywhere([Unchanged("/t/a", 0)], [Delete("/t/a")])

    async def test_arbitration_wins_loses_and_knows_its_own(self, store: StateStore) -> None:
        start = await put(store, "/t/p", record("start"))
        won = await arbitrate(store, "/t/p", start, record("mine"), "mine", WAIT_S)
        assert isinstance(won, Won) and won.revision == start + 1
        again = await arbitrate(store, "/t/p", start, record("mine"), "mine", WAIT_S)
        assert again == won
        lost = await arbitrate(store, "/t/p", start, record("late"), "late", WAIT_S)
        assert isinstance(lost, Lost) and lost.current and lost.current.value == record("mine")

    async def test_arbitration_knows_what_was_written_over(self, store: StateStore) -> None:
        start = await put(store, "/t/p", record("start"))
        first = await put(store, "/t/p", record("mine"))
        await put(store, "/t/p", record("theirs"))
        won = await arbitrate(store, "/t/p", start, record("mine"), "mine", WAIT_S)
        assert isinstance(won, Won) and won.revision == first and won.is_superseded
        assert won.current and won.current.value == record("theirs")
        lost = await arbitrate(store, "/t/p", start, record("other"), "other", WAIT_S)
        assert isinstance(lost, Lost) and lost.current == won.current

    async def test_arbitration_of_a_deleted_key_is_decided_by_history(self, store: StateStore) -> None:
        start = await put(store, "/t/p", record("start"))
        first = await put(store, "/t/p", record("mine"))
        await store.commit([], [Delete("/t/p")])
        won = await arbitrate(store, "/t/p", start, record("mine"), "mine", WAIT_S)
        assert won == Won(first, is_superseded=True, current=None)
        assert await arbitrate(store, "/t/p", first, record("x"), "x", WAIT_S) == Lost(None)

    async def test_arbitration_demands_its_id_and_a_key(self, store: StateStore) -> None:
        with pytest.raises(BugError):
            await arbitrate(store, "/t/p", 1, record("other"), "mine", WAIT_S)
        with pytest.raises(BugError):
            await arbitrate(store, "/t/p", 0, record("mine"), "mine", WAIT_S)

    async def test_of_many_contenders_exactly_one_wins(self, store: StateStore, other: StateStore) -> None:
        await put(store, "/t/p", record("start"))
        for number in range(ROUNDS):
            item = await store.get("/t/p")
            assert item
            names = [f"{number}-{one}" for one in range(CONTENDERS)]
            random.shuffle(names)
            results = await asyncio.gather(
                *(
                    arbitrate(client, "/t/p", item.mod_revision, record(name), name, WAIT_S)
                    for name, client in zip(names, [store, other] * CONTENDERS, strict=False)
                )
            )
            winners = [name for name, one in zip(names, results, strict=True) if isinstance(one, Won)]
            now = await store.get("/t/p")
            assert now and [now.value] == [record(name) for name in winners]
            assert {one.current for one in results if isinstance(one, Lost)} == {now}
