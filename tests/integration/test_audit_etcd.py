"""The audit log in three real etcd members: appended to by several at once, and tampered with behind its back."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request
from audit_support import asked, context_of, node

from hostagent.agent.audit import AuditKeeper, open_audit
from hostagent.server.auditing import AuditHandlers
from tests.integration.etcd_cluster import Cluster, runtime_root
from vdc.model.audit import AuditEntry, canonical, hash_of
from vdc.model.errors import UnavailableError
from vdc.store import keys
from vdc.store.audit import AuditLog
from vdc.store.etcd import EtcdStore
from vdc.store.protocol import Delete

ROOT = runtime_root()
pytestmark = pytest.mark.skipif(ROOT is None, reason="no runtime root with etcd")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    assert ROOT is not None
    with Cluster(ROOT, tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    yield shared
    for index, process in enumerate(shared.processes):
        if process is None:
            shared.start(index)
    shared.wait_healthy()


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[EtcdStore]:
    made = EtcdStore(cluster.endpoints)
    await made.commit([], [Delete("/", is_prefix=True)])
    yield made
    await made.close()


async def read(store: EtcdStore) -> list[AuditEntry]:
    return [AuditEntry.from_json(text) async for page in AuditLog(store).entries(1) for _, text in page]


class Host:
    """One agent's part in it, on a store of its own."""

    def __init__(self, folder: Path, store: EtcdStore, name: str = "h2") -> None:
        self.node = node(folder, store, name)  # type: ignore[arg-type]
        self.audit = open_audit(self.node)
        self.keeper = AuditKeeper(self.node, self.audit)
        self.handlers = AuditHandlers(context_of(self.node, self.audit))

    async def acts(self, count: int) -> None:
        for number in range(count):
            entry = asked(number + 1, host=self.node.name)
            await self.audit.spool.begin(entry)
            self.audit.spool.end(entry)
        while True:
            with suppress(UnavailableError):
                await self.keeper.drain()
                return await self.keeper.follow()

    async def damage(self) -> list[str]:
        verdict = await self.handlers.verify_audit(make_mocked_request("GET", "/v1/audit/verdict"))
        assert verdict.is_intact == (not verdict.damage)
        return [one.sentence for one in verdict.damage]


async def test_several_hosts_at_once(cluster: Cluster, store: EtcdStore, tmp_path: Path) -> None:
    stores = [EtcdStore(cluster.endpoints) for _ in range(4)]
    hosts = [Host(tmp_path, one, f"h{index}") for index, one in zip((1, 2, 3), stores, strict=False)]

    async def write_one_by_one(host: Host) -> None:
        for number in range(40):
            entry = asked(number + 1, host=host.node.name)
            await host.audit.spool.begin(entry)
            host.audit.spool.end(entry)
            await host.keeper.drain()

    await asyncio.gather(*(write_one_by_one(host) for host in hosts))
    found = await read(store)
    for host in hosts:
        of_host = [one.number for one in found if one.host == host.node.name]
        assert of_host == list(range(1, 41))
    assert len(found) == 120
    for host in hosts:
        await host.keeper.follow()
        assert await host.damage() == [] and host.audit.remembered.seq == 120
        await host.audit.close()
    for one in stores:
        await one.close()


async def test_while_members_die(cluster: Cluster, store: EtcdStore, tmp_path: Path) -> None:
    """Each death ends requests of which nobody knows what became of them."""
    hosts = [Host(tmp_path, store, name) for name in ("h1", "h3")]
    writing = [asyncio.create_task(host.acts(150)) for host in hosts]
    for index in range(3):
        cluster.kill(index)
        await asyncio.sleep(0.3)
        cluster.start(index)  # not in a thread, with which it would die
        await asyncio.to_thread(cluster.wait_healthy)
    await asyncio.gather(*writing)
    found = await read(store)
    assert len(found) == len({(one.host, one.id) for one in found}) == 300
    assert await hosts[0].damage() == []


async def test_trimming(store: EtcdStore, tmp_path: Path) -> None:
    host = Host(tmp_path, store)
    await host.acts(350)
    assert (await AuditLog(store, keep=120).trim()).count == 199
    assert [one.seq for one in await read(store)] == list(range(200, 351))
    assert await host.damage() == [
        "only 151 entries are left, and the newest 100000 are never trimmed: the log was cut at its beginning"
    ]


# ---- written to by somebody who may write to etcd


class Tamperer:
    """Without our client: etcd's own API."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def get(self, key: str) -> str:
        answer = self._cluster.post(0, "/v3/kv/range", {"key": _b64(key)})
        return base64.b64decode(answer["kvs"][0]["value"]).decode()  # type: ignore[index]

    def put(self, key: str, value: str) -> None:
        self._cluster.post(0, "/v3/kv/put", {"key": _b64(key), "value": _b64(value)})

    def delete(self, *found: str) -> None:
        for key in found:
            self._cluster.post(0, "/v3/kv/deleterange", {"key": _b64(key)})

    def entry(self, seq: int) -> dict[str, object]:
        values: dict[str, object] = json.loads(self.get(keys.audit(seq)))
        return values

    def put_entry(self, seq: int, values: dict[str, object]) -> None:
        self.put(keys.audit(seq), canonical(values))


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def change(by: Tamperer) -> None:
    by.put_entry(5, by.entry(5) | {"who": "vdc://0123456789ab/admin/eve"})


def replace(by: Tamperer) -> None:
    values = by.entry(5) | {"who": "vdc://0123456789ab/admin/eve"}
    by.put_entry(5, values | {"hash": hash_of(values)})


def drop(by: Tamperer) -> None:
    by.delete(keys.audit(5), keys.audit(6))


def swap(by: Tamperer) -> None:
    one, other = by.entry(5), by.entry(6)
    by.put_entry(5, other)
    by.put_entry(6, one)


def spoil(by: Tamperer) -> None:
    by.put(keys.audit(5), "?")


def cut_the_end(by: Tamperer) -> None:
    by.delete(keys.audit(9), keys.audit(10))


def cut_the_end_and_set_the_head_back(by: Tamperer) -> None:
    cut_the_end(by)
    head = json.loads(by.get(keys.AUDIT_HEAD))
    by.put(keys.AUDIT_HEAD, json.dumps(head | {"seq": 8, "hash": by.entry(8)["hash"]}))


def set_the_head_back(by: Tamperer) -> None:
    head = json.loads(by.get(keys.AUDIT_HEAD))
    by.put(keys.AUDIT_HEAD, json.dumps(head | {"seq": 8, "hash": by.entry(8)["hash"]}))


def remove_the_head(by: Tamperer) -> None:
    by.delete(keys.AUDIT_HEAD)


def cut_the_beginning(by: Tamperer) -> None:
    by.delete(keys.audit(1), keys.audit(2))


def cut_the_beginning_and_move_the_anchor(by: Tamperer) -> None:
    by.put(keys.AUDIT_ANCHOR, json.dumps({"seq": 2, "hash": by.entry(2)["hash"]}))
    cut_the_beginning(by)


def rewrite_it_all(by: Tamperer) -> None:
    prev, values = "0" * 64, {}
    for seq in range(1, 11):
        values = by.entry(seq) | {"who": "vdc://0123456789ab/admin/eve", "prev": prev}
        prev = hash_of(values)
        by.put_entry(seq, values | {"hash": prev})
    head = json.loads(by.get(keys.AUDIT_HEAD))
    by.put(keys.AUDIT_HEAD, json.dumps(head | {"hash": prev}))


def remove_it_all(by: Tamperer) -> None:
    by.delete(keys.AUDIT_HEAD, *(keys.audit(seq) for seq in range(1, 11)))


REMEMBERS = "h2 remembers entry 10, and the log ends with entry"


@pytest.mark.parametrize(
    ("tamper", "sentences"),
    [
        (change, ["entry 5 was changed: its content does not match its hash"]),
        (replace, ["entry 6 does not follow entry 5: one of the two was replaced"]),
        (drop, ["entries 5 to 6 are missing"]),
        (swap, ["entry 6 stands in the place of entry 5", "entry 5 stands in the place of entry 6"]),
        (spoil, ["entry 5 cannot be read"]),
        (
            cut_the_end,
            ["the log ends with entry 8 and its head is entry 10: entries 9 to 10 are missing at its end",
             f"{REMEMBERS} 8: its end was cut off and its head set back"],
        ),
        (cut_the_end_and_set_the_head_back, [f"{REMEMBERS} 8: its end was cut off and its head set back"]),
        (set_the_head_back, ["the head is entry 8, and there are entries up to 10: the head was set back"]),
        (remove_the_head, ["the head of the log is missing"]),
        (
            cut_the_beginning,
            ["the log begins with entry 3, and nothing was trimmed: entries 1 to 2 are missing at its beginning"],
        ),
        (
            cut_the_beginning_and_move_the_anchor,
            ["only 8 entries are left, and the newest 100000 are never trimmed: the log was cut at its beginning"],
        ),
        (rewrite_it_all, ["h2 remembers another entry 10 than there is: the log was rewritten there or before"]),
        (remove_it_all, [f"{REMEMBERS} 0: its end was cut off and its head set back"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
async def test_tampering_shows(
    cluster: Cluster,
    store: EtcdStore,
    tmp_path: Path,
    tamper: Callable[[Tamperer], None],
    sentences: list[str],
) -> None:
    host = Host(tmp_path, store)
    await host.acts(10)
    assert await host.damage() == [] and host.audit.remembered.seq == 10
    tamper(Tamperer(cluster))
    assert await host.damage() == sentences
    await host.audit.close()


async def test_after_tampering_acts_are_still_written(
    cluster: Cluster, store: EtcdStore, tmp_path: Path
) -> None:
    host = Host(tmp_path, store)
    await host.acts(10)
    set_the_head_back(Tamperer(cluster))
    drop(Tamperer(cluster))
    await host.acts(10)
    assert [one.seq for one in await read(store)] == [*range(1, 5), *range(7, 21)]
    assert await host.damage() == ["entries 5 to 6 are missing"]


async def test_a_long_log_is_checked_in_seconds(store: EtcdStore, tmp_path: Path) -> None:
    host = Host(tmp_path, store)
    log = AuditLog(store)
    entries = [asked(number, host="h2", spool="x") for number in range(1, 5001)]
    for first in range(0, 5000, 500):
        await log.append(entries[: first + 500], 0)
    began = time.monotonic()
    assert await host.damage() == []
    assert time.monotonic() - began < 10  # some 0.5 s on an idle machine
