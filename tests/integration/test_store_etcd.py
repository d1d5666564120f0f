"""EtcdStore against three real members: the shared suite, etcdctl, and members that die or hang."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress

import pytest

from tests.integration.etcd_cluster import Cluster, runtime_root
from tests.integration.tcp_proxy import Proxy
from tests.unit.store_conformance import StoreConformance, put, record, take, values, watching
from vdc.store import etcd_codec as codec
from vdc.store.arbitration import Lost, Won, arbitrate
from vdc.store.etcd import EtcdStore
from vdc.store.etcd_watch import WatchTimings
from vdc.store.protocol import (
    Change,
    ChangeKind,
    Delete,
    Put,
    StoreUnavailableError,
    Unchanged,
    UnknownOutcomeError,
)

ROOT = runtime_root()
pytestmark = pytest.mark.skipif(ROOT is None, reason="no runtime root with etcd")
QUICK = WatchTimings(silence_s=0.5, probe_s=0.3)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    assert ROOT is not None
    with Cluster(ROOT, tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    """All members run when a test begins, whatever the test before did to them."""
    yield shared
    for index, process in enumerate(shared.processes):
        if process is None:
            shared.start(index)
        else:
            shared.resume(index)
    shared.wait_healthy()


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(cluster.endpoints, watch_timings=QUICK)
    await store.commit([], [Delete("/", is_prefix=True)])
    yield store
    await store.close()


@pytest.fixture
async def other(cluster: Cluster) -> AsyncIterator[EtcdStore]:
    other = EtcdStore(cluster.endpoints[::-1], watch_timings=QUICK)
    yield other
    await other.close()


async def compact(cluster: Cluster, revision: int) -> None:
    body = {"revision": str(revision), "physical": True}
    await asyncio.to_thread(cluster.post, 0, "/v3/kv/compaction", body)


class TestEtcdStore(StoreConformance):
    """The shared suite."""

    @pytest.fixture(autouse=True)
    def _remember(self, cluster: Cluster) -> None:
        self.cluster = cluster

    async def expire_leases(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def compact(self, revision: int) -> None:
        await compact(self.cluster, revision)


async def test_etcdctl_reads_what_is_written(cluster: Cluster, store: EtcdStore) -> None:
    text = 'grüße "\\\n 🖥'
    lease = await store.grant_lease(30)
    await store.commit([], [Put("/t/ä", text, lease)])
    answer = json.loads(await asyncio.to_thread(cluster.etcdctl, "get", "/t/ä", "--write-out=json"))
    item = await store.get("/t/ä")
    assert codec.key_values(answer) == (item,)
    assert f"{lease:x}" in await asyncio.to_thread(cluster.etcdctl, "lease", "list")


async def test_reads_what_etcdctl_writes(cluster: Cluster, store: EtcdStore) -> None:
    async with watching(store, "/t/", (await store.list("/t/")).revision + 1) as changes:
        await asyncio.to_thread(cluster.etcdctl, "put", "/t/é", "wört")
        assert values(await take(changes, 1)) == ["wört"]
        await asyncio.to_thread(cluster.etcdctl, "del", "/t/é")
        assert (await take(changes, 1))[0].kind is ChangeKind.DELETE
    await asyncio.to_thread(cluster.etcdctl, "put", "/t/é", "2")
    item = await store.get("/t/é")
    assert item and item.value == "2"


async def test_status_names_the_leader_and_the_dead(cluster: Cluster, store: EtcdStore) -> None:
    leader = cluster.leader()
    dead = (leader + 1) % 3
    cluster.kill(dead)
    status = await store.admin.status()
    assert [one.is_leader for one in status] == [index == leader for index in range(3)]
    assert [one.is_healthy for one in status] == [index != dead for index in range(3)]
    assert status[dead].error and status[leader].version.startswith("3.") and status[leader].raft_term > 0
    assert status[leader].db_size_bytes > 0


async def test_leadership_can_be_moved(cluster: Cluster, store: EtcdStore) -> None:
    target = (cluster.leader() + 1) % 3
    await store.admin.move_leader((await store.admin.status())[target].member_id)
    assert cluster.leader() == target


async def test_a_refused_connection_costs_nothing(cluster: Cluster, store: EtcdStore) -> None:
    follower = (cluster.leader() + 1) % 3
    cluster.kill(follower)
    own = EtcdStore([cluster.endpoints[follower], *store.endpoints], hedge_s=10.0)
    started = time.monotonic()
    assert (await own.commit([], [Put("/t/a", "1")], deadline_s=30.0)).succeeded
    assert await own.get("/t/a", deadline_s=30.0)
    assert time.monotonic() - started < 10.0
    await own.close()


async def test_reads_pass_by_a_paused_member(cluster: Cluster) -> None:
    paused = (cluster.leader() + 1) % 3
    endpoints = [cluster.endpoints[paused], *cluster.endpoints]
    store = EtcdStore(endpoints, hedge_s=2.0)
    await store.commit([], [Put("/t/a", "1")])
    cluster.pause(paused)
    started = time.monotonic()
    assert await store.get("/t/a", deadline_s=30.0)
    assert 2.0 <= time.monotonic() - started < 15.0
    started = time.monotonic()
    assert await store.get("/t/a")  # it is asked last now
    assert (await store.commit([], [Put("/t/a", "2")])).succeeded
    assert time.monotonic() - started < 2.0
    await store.close()


async def test_a_commit_to_everybody_does_not_wait_for_a_paused_member(
    cluster: Cluster, store: EtcdStore
) -> None:
    paused = (cluster.leader() + 1) % 3
    own = EtcdStore([cluster.endpoints[paused], *cluster.endpoints])
    revision = await put(store, "/t/a", "1")
    cluster.pause(paused)
    started = time.monotonic()
    # Which of the two answers comes first, the one that applied it or the one that found it applied, is open.
    await own.commit_everywhere([Unchanged("/t/a", revision)], [Put("/t/a", "2")], deadline_s=10.0)
    assert time.monotonic() - started < 5
    present = await store.get("/t/a")
    assert present is not None and present.value == "2"
    await own.close()


async def test_a_commit_to_a_member_that_hangs_is_unknown(cluster: Cluster, store: EtcdStore) -> None:
    hung = (cluster.leader() + 1) % 3
    alone = EtcdStore([cluster.endpoints[hung]])
    await alone.get("/t/a")
    cluster.pause(hung)
    with pytest.raises(UnknownOutcomeError):
        await alone.commit([], [Put("/t/a", "1")], deadline_s=0.3)
    with pytest.raises(StoreUnavailableError):
        await alone.get("/t/a", deadline_s=0.3)
    await alone.close()


async def test_nobody_listens_is_certainly_no_effect(cluster: Cluster) -> None:
    store = EtcdStore(["http://127.0.0.1:1", "http://127.0.0.1:2"])
    with pytest.raises(StoreUnavailableError):
        await store.commit([], [Put("/t/a", "1")], deadline_s=0.2)
    with pytest.raises(StoreUnavailableError):
        await store.commit_everywhere([Unchanged("/t/a", 0)], [Put("/t/a", "1")], deadline_s=0.2)
    await store.close()


async def test_an_answer_that_is_lost_is_read_back(cluster: Cluster, store: EtcdStore) -> None:
    start = await put(store, "/t/p", record("start"))
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(port)) for port in cluster.client_ports]
        behind = EtcdStore([one.endpoint for one in proxies])
        stack.push_async_callback(behind.close)
        for one in proxies:
            one.swallows_answers = True
        with pytest.raises(UnknownOutcomeError):
            await behind.commit([Unchanged("/t/p", start)], [Put("/t/p", record("a"))], deadline_s=0.3)
        item = await store.get("/t/p")
        assert item and item.value == record("a")
        with pytest.raises(UnknownOutcomeError):
            await arbitrate(behind, "/t/p", item.mod_revision, record("b"), "b", 0.5)
        arbitration = asyncio.ensure_future(
            arbitrate(behind, "/t/p", item.mod_revision, record("b"), "b", 5.0)
        )
        await asyncio.sleep(0.3)
        for one in proxies:
            one.swallows_answers = False
        assert await arbitration == Won(item.mod_revision + 1)


async def test_without_a_quorum_an_arbitration_is_undecided_and_may_come_true(
    cluster: Cluster, store: EtcdStore
) -> None:
    start = await put(store, "/t/p", record("start"))
    leader = cluster.leader()
    for index in range(3):
        if index != leader:
            cluster.pause(index)
    with pytest.raises(UnknownOutcomeError):
        await arbitrate(store, "/t/p", start, record("mine"), "mine", 0.6)
    for index in range(3):
        cluster.resume(index)
    await asyncio.to_thread(cluster.wait_healthy)
    verdict = await arbitrate(store, "/t/p", start, record("late"), "late", 5.0)
    item = await store.get("/t/p")
    assert item is not None
    assert item.value == record("late" if isinstance(verdict, Won) else "mine")


async def test_arbitration_is_won_soon_after_the_leader_was_killed(cluster: Cluster) -> None:
    for number in range(5):
        store = EtcdStore(cluster.endpoints)
        start = await put(store, "/t/p", record("start"))
        leader = cluster.leader()
        cluster.kill(leader)
        verdict = await arbitrate(store, "/t/p", start, record(f"{number}"), f"{number}", 5.0)
        assert verdict == Won(start + 1)
        await store.close()
        cluster.start(leader)
        await asyncio.to_thread(cluster.wait_healthy)


async def test_a_race_while_the_leader_dies_has_one_winner(cluster: Cluster) -> None:
    for number in range(5):
        stores = [EtcdStore(cluster.endpoints) for _ in range(2)]
        start = await put(stores[0], "/t/p", record("start"))
        leader = cluster.leader()
        names = [f"{number}-{one}" for one in range(2)]
        race = [
            asyncio.ensure_future(arbitrate(store, "/t/p", start, record(name), name, 5.0))
            for store, name in zip(stores, names, strict=True)
        ]
        cluster.kill(leader)
        results = await asyncio.gather(*race)
        item = await stores[0].get("/t/p")
        winners = [name for name, one in zip(names, results, strict=True) if isinstance(one, Won)]
        assert item and [item.value] == [record(name) for name in winners]
        assert [one.current for one in results if isinstance(one, Lost)] == [item]
        for store in stores:
            await store.close()
        cluster.start(leader)
        await asyncio.to_thread(cluster.wait_healthy)


class Writer:
    """Writes numbers to its own keys; remembers what was acknowledged and what is unknown."""

    def __init__(self, store: EtcdStore, name: str) -> None:
        self.store, self.name = store, name
        self.acknowledged: dict[str, int] = {}
        self.unknown: set[str] = set()

    async def run(self) -> None:
        number = 0
        while True:
            key = f"/t/{self.name}/{number:06d}"
            number += 1
            try:
                result = await self.store.commit([Unchanged(key, 0)], [Put(key, "x")])
                assert result.succeeded
                self.acknowledged[key] = result.revision
            except UnknownOutcomeError:
                self.unknown.add(key)


async def test_watches_and_commits_survive_leaders_that_are_killed(
    cluster: Cluster, store: EtcdStore
) -> None:
    writers = [
        Writer(EtcdStore(cluster.endpoints[index:] + cluster.endpoints[:index]), f"w{index}")
        for index in range(3)
    ]
    begin = (await store.list("/t/")).revision + 1
    seen: list[Change] = []

    async def follow() -> None:
        async with watching(store, "/t/", begin) as changes:
            async for change in changes:
                seen.append(change)

    tasks = [asyncio.create_task(one.run()) for one in writers]
    follower = asyncio.create_task(follow())
    for _ in range(3):
        await asyncio.sleep(0.3)
        leader = await asyncio.to_thread(cluster.leader)
        cluster.kill(leader)
        await asyncio.sleep(0.7)
        cluster.start(leader)
        await asyncio.to_thread(cluster.wait_healthy)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in results), results
    end = await put(store, "/t/end", "")
    while not seen or seen[-1].revision < end:
        await asyncio.sleep(0.01)
    follower.cancel()
    with suppress(asyncio.CancelledError):
        await follower
    for one in writers:
        await one.store.close()

    stored = {item.key: item.mod_revision for item in (await store.list("/t/")).items}
    acknowledged = {key: at for one in writers for key, at in one.acknowledged.items()}
    assert len(acknowledged) > 100
    assert acknowledged.items() <= stored.items()
    certain = {key for one in writers for key in (*one.acknowledged, *one.unknown)}
    assert len(stored.keys() - certain - {"/t/end"}) <= len(writers)  # the commits that were cancelled
    assert [(one.item.key, one.revision) for one in seen if one.item] == sorted(
        stored.items(), key=lambda one: one[1]
    )


async def test_a_watch_leaves_a_member_that_was_paused(cluster: Cluster, store: EtcdStore) -> None:
    paused = (cluster.leader() + 1) % 3
    watcher = EtcdStore([cluster.endpoints[paused], *cluster.endpoints], watch_timings=QUICK)
    async with watching(watcher, "/t/", await put(store, "/t/a", "1")) as changes:
        assert values(await take(changes, 1)) == ["1"]
        cluster.pause(paused)
        other = EtcdStore([one for one in cluster.endpoints if one != cluster.endpoints[paused]])
        await put(other, "/t/a", "2")
        assert values(await take(changes, 1)) == ["2"]
        await other.close()
    await watcher.close()


async def test_a_half_open_watch_is_noticed(cluster: Cluster, store: EtcdStore) -> None:
    async with Proxy(cluster.client_ports[0]) as proxy:
        watcher = EtcdStore([proxy.endpoint, *cluster.endpoints], watch_timings=QUICK)
        async with watching(watcher, "/t/", await put(store, "/t/a", "1")) as changes:
            assert values(await take(changes, 1)) == ["1"]
            proxy.is_frozen = True
            await put(store, "/t/a", "2")
            assert values(await take(changes, 1)) == ["2"]
        await watcher.close()


async def test_a_watch_whose_history_was_compacted_while_it_was_cut_off_resyncs(
    cluster: Cluster, store: EtcdStore
) -> None:
    async with Proxy(cluster.client_ports[0]) as proxy:
        watcher = EtcdStore([proxy.endpoint], watch_timings=QUICK)
        async with watching(watcher, "/t/", await put(store, "/t/a", "1")) as changes:
            assert values(await take(changes, 1)) == ["1"]
            proxy.is_frozen = True
            for number in range(5):
                last = await put(store, "/t/a", str(number))
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(QUICK.silence_s + QUICK.probe_s + 0.3)
            await compact(cluster, last)
            proxy.is_frozen = False
            resync = await waiting
            if resync.kind is not ChangeKind.RESYNC:  # what was under way when it froze still arrived
                pytest.fail(f"expected a resync, got {resync}")
            await put(store, "/t/a", "after")
            assert values(await take(changes, 1)) == ["after"]
        await watcher.close()


async def test_a_watch_goes_on_when_all_members_were_down(cluster: Cluster, store: EtcdStore) -> None:
    async with watching(store, "/t/", await put(store, "/t/a", "1")) as changes:
        assert values(await take(changes, 1)) == ["1"]
        waiting = asyncio.ensure_future(anext(changes))
        for index in range(3):
            cluster.kill(index)
        await asyncio.sleep(0.2)
        for index in range(3):
            cluster.start(index)
        await asyncio.to_thread(cluster.wait_healthy)
        await put(store, "/t/a", "2")
        assert values([await waiting]) == ["2"]
