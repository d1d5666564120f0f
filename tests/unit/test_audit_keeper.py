"""From the spool into the log; what a host remembers of the log; and the verdict on it by way of the API."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from audit_support import Chain, asked, context_of, node
from protection_world import host

from hostagent.agent.audit import AuditKeeper, open_audit, written_down
from hostagent.agent.running import api_socket
from hostagent.server.auditing import AuditHandlers
from hostagent.server.context import ServerContext
from vdc.api.models import AuditPage, AuditVerdict
from vdc.model.audit import AuditEntry, AuditHead, RememberedHead
from vdc.model.errors import ConflictError, NotFoundError, UnavailableError
from vdc.model.lineage import Lineage
from vdc.store import keys
from vdc.store.audit import AuditLog
from vdc.store.memory import MemoryStore
from vdc.store.mirror import Versioned
from vdc.store.protocol import Delete, Put


class Host:
    """One agent's part in it."""

    def __init__(self, folder: Path, cluster: MemoryStore, name: str = "h2") -> None:
        self.folder, self.name = folder, name
        self.store = cluster.client()
        self.node = node(folder, self.store, name)
        self.told: list[str] = []
        self.node.tell_of_node = self._tell  # type: ignore[method-assign]
        self.start()

    def start(self) -> None:
        """Or start again, after a crash."""
        self.audit = open_audit(self.node)
        self.keeper = AuditKeeper(self.node, self.audit)
        self.context = context_of(self.node, self.audit)
        self.handlers = AuditHandlers(self.context)

    async def _tell(self, code: str, sentence: str, *_: object) -> None:
        self.told.append(sentence)

    async def act(self, number: int) -> None:
        entry = asked(number, host=self.name)
        await self.audit.spool.begin(entry)
        self.audit.spool.end(entry)

    async def acts(self, *numbers: int) -> None:
        for number in numbers:
            await self.act(number)
        await self.keeper.drain()
        await self.keeper.follow()

    async def list(self, query: str = "") -> AuditPage:
        return await self.handlers.list_audit(make_mocked_request("GET", f"/v1/audit?{query}"))

    async def verify(self) -> AuditVerdict:
        return await self.handlers.verify_audit(make_mocked_request("GET", "/v1/audit/verdict"))

    async def damage(self) -> list[str]:
        return [one.sentence for one in (await self.verify()).damage]

    @property
    def remembered(self) -> RememberedHead:
        return self.audit.remembered


@pytest.fixture
def cluster() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def here(tmp_path: Path, cluster: MemoryStore) -> AsyncIterator[Host]:
    made = Host(tmp_path, cluster)
    yield made
    await made.audit.close()


async def log_of(store: MemoryStore) -> list[AuditEntry]:
    return [AuditEntry.from_json(text) async for page in AuditLog(store).entries(1) for _, text in page]


def ids(entries: list[AuditEntry]) -> list[int]:
    return [int(entry.id, 16) for entry in entries]


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


# ---- from the spool into the log


async def test_what_is_done_is_in_the_log_soon(here: Host, cluster: MemoryStore) -> None:
    keeping = asyncio.create_task(here.keeper.run())
    await here.act(1)
    await until(lambda: here.store.cluster.get(keys.AUDIT_HEAD) is not None)
    keeping.cancel()
    (entry,) = await log_of(cluster)
    assert (entry.host, entry.seq, entry.result) == ("h2", 1, "ok")


async def test_without_a_majority_it_waits_and_comes_when_there_is_one(
    here: Host, cluster: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostagent.agent.audit.RETRY_S", 0.01)
    here.store.cut_off()
    keeping = asyncio.create_task(here.keeper.run())
    await here.act(1)
    await here.act(2)
    await asyncio.sleep(0.05)
    assert await log_of(cluster) == []
    here.store.cut_off(is_unavailable=False)
    await until(lambda: not here.audit.spool.waiting(1))
    keeping.cancel()
    assert ids(await log_of(cluster)) == [1, 2]


async def test_a_crash_at_any_moment_loses_and_doubles_nothing(here: Host, cluster: MemoryStore) -> None:
    number = 0
    for request in ("commit", "get"):
        for after in range(3):
            for _ in range(3):
                number += 1
                await here.act(number)
            here.store.fail_next(module_fault(request), request, count=1)
            with_fault = here.keeper.drain()
            for _ in range(after):
                await asyncio.sleep(0)
            await asyncio.gather(with_fault, return_exceptions=True)
            here.start()
    await here.keeper.drain()
    assert ids(await log_of(cluster)) == list(range(1, number + 1))
    assert await here.damage() == []


def module_fault(request: str) -> Any:
    from vdc.store.memory import Fault

    return Fault.LOST_ANSWER if request == "commit" else Fault.UNAVAILABLE


@pytest.mark.parametrize("is_refused", [False, True])
async def test_a_command_at_a_host_whose_agent_is_down_comes_with_the_next_agent(
    here: Host, cluster: MemoryStore, is_refused: bool
) -> None:
    with suppress(ConflictError):
        async with written_down(here.node.config, "go-on-alone", "root"):
            if is_refused:
                raise ConflictError("a majority answers", code="majority-answers")
    here.start()
    await here.keeper.drain()
    (entry,) = await log_of(cluster)
    result = "majority-answers" if is_refused else "ok"
    assert (entry.what, entry.who, entry.address, entry.result) == (
        "go-on-alone",
        "root",
        "hostagent",
        result,
    )


async def test_a_command_leaves_the_spool_of_a_running_agent_alone(here: Host) -> None:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(api_socket(here.node.config)))
        agent.listen()
        async with written_down(here.node.config, "go-on-alone", "root"):
            pass
    here.start()
    assert here.audit.spool.waiting(1) == []


# ---- what it remembers


async def test_the_end_is_remembered_across_restarts(here: Host) -> None:
    await here.acts(1, 2, 3)
    known = here.remembered
    assert known.seq == 3 and here.told == []
    here.start()
    assert here.remembered == known


async def test_a_host_remembers_what_others_appended(
    here: Host, tmp_path: Path, cluster: MemoryStore
) -> None:
    other = Host(tmp_path, cluster, "h1")
    await here.acts(1)
    await other.acts(2, 3)
    await here.keeper.follow()
    assert here.remembered.seq == other.remembered.seq == 3
    assert here.told == other.told == []


async def test_a_rewritten_log_is_told_once_and_what_was_seen_stays(here: Host, cluster: MemoryStore) -> None:
    await here.acts(1, 2, 3)
    known = here.remembered
    chain = Chain(5)
    await _replace(cluster, chain)
    await here.keeper.follow()
    await here.keeper.follow()
    sentence = "entry 4 does not follow what was trimmed up to entry 3: one of the two was replaced"
    assert here.told == [f"the audit log is not what was written: {sentence}; see vdc audit verify"]
    assert here.remembered == known
    assert await here.damage() == [
        "h2 remembers another entry 3 than there is: the log was rewritten there or before"
    ]


async def test_a_log_that_was_cut_and_goes_on_is_told(here: Host, cluster: MemoryStore) -> None:
    await here.acts(1, 2, 3)
    known = here.remembered
    chain = Chain(2)
    await _replace(cluster, chain)
    await here.keeper.follow()
    assert here.remembered == known and "its end was cut off" in here.told[0]
    await cluster.commit([], [Delete(keys.AUDIT, is_prefix=True)])
    await here.keeper.follow()
    assert "the head of the log is missing" in here.told[1]


async def test_the_log_goes_on_after_it_was_damaged(here: Host, cluster: MemoryStore) -> None:
    await here.acts(1, 2, 3)
    await cluster.commit([], [Delete(keys.AUDIT_HEAD), Put(keys.audit(2), "x")])
    await here.acts(4)
    assert ids([e for e in await _readable(cluster)]) == [1, 3, 4]
    assert await here.damage() == ["entry 2 cannot be read"]


async def test_a_new_lineage_lacks_the_end_and_gets_it_again(
    here: Host, tmp_path: Path, cluster: MemoryStore
) -> None:
    """A member that goes on alone has entries 1 and 2 only; this host has seen four, and wrote them."""
    await here.acts(1, 2)
    before = (await cluster.list(keys.AUDIT)).items
    await here.acts(3, 4)
    await cluster.commit([], [Delete(keys.AUDIT, is_prefix=True)])
    await cluster.commit([], [Put(item.key, item.value) for item in before])
    here.node.lineage = 1
    await here.keeper.follow()
    assert here.remembered.seq == 4 and here.told == []
    assert await here.damage() == []
    await here.acts(5)
    entries = await log_of(cluster)
    assert ids(entries) == [1, 2, 3, 4, 5] and [e.lineage for e in entries] == [0, 0, 1, 1, 1]
    assert here.remembered.lineage == 1 and here.told == [] and await here.damage() == []


async def test_an_invented_lineage_excuses_nothing(here: Host, cluster: MemoryStore) -> None:
    await here.acts(1, 2, 3)
    await _replace(cluster, Chain(3, lineages=(9, 9, 9)))
    await here.keeper.follow()
    assert here.remembered.lineage == 0 and len(here.told) == 1
    assert "entry 1 claims lineage 9, and lineage 0 is in force" in await here.damage()


async def test_who_was_away_when_a_lineage_began_stands_down_before_it_judges(
    here: Host, cluster: MemoryStore
) -> None:
    await here.acts(1, 2)
    await cluster.commit([], [Put(keys.LINEAGE, Lineage(number=1, host="h1").to_json())])
    await AuditLog(cluster).append([asked(3)], 1)
    await here.keeper.follow()
    assert here.told == [] and here.remembered.seq == 2
    here.node.lineage = 1
    await here.keeper.follow()
    assert here.told == [] and here.remembered.seq == 3


async def _replace(store: MemoryStore, chain: Chain) -> None:
    await store.commit([], [Delete(keys.AUDIT, is_prefix=True)])
    puts = [Put(keys.audit(seq), text) for seq, text in chain.texts.items()]
    await store.commit([], [Put(keys.AUDIT_HEAD, chain.head.to_json()), *puts])


async def _readable(store: MemoryStore) -> list[AuditEntry]:
    pages = [page async for page in AuditLog(store).entries(1)]
    return [AuditEntry.from_json(text) for page in pages for _, text in page if text != "x"]


# ---- the API


async def test_listing(here: Host) -> None:
    await here.acts(*range(1, 251))
    newest = await here.list()
    assert [item["seq"] for item in newest.items] == list(range(151, 251)) and newest.next == 251
    some = await here.list("since=10&limit=5")
    assert [item["seq"] for item in some.items] == [10, 11, 12, 13, 14] and some.next == 15
    assert (await here.list("since=251")).items == () == (await here.list("who=bob")).items
    assert (await here.list("since=400")).next == 400
    assert len((await here.list("who=alice&object=web&since=1&limit=1000")).items) == 250
    assert len((await here.list("who=10.0.0.9&limit=7")).items) == 7


@pytest.mark.parametrize(
    "query", ["since=x", "limit=0", "limit=1001", "since=-1", "limit=", "since=9" + "9" * 30]
)
async def test_a_query_that_makes_no_sense(here: Host, query: str) -> None:
    with pytest.raises(Exception, match="is not a number from"):
        await here.list(query)


async def test_an_empty_log_is_intact(here: Host) -> None:
    assert (await here.list()).items == ()
    found = await here.verify()
    assert (found.is_intact, found.first, found.last) == (True, 0, 0)


@pytest.mark.parametrize("is_set_back", [True, False])
async def test_entries_behind_the_head(here: Host, cluster: MemoryStore, is_set_back: bool) -> None:
    await here.acts(1, 2, 3)
    head = AuditHead.from_json((await cluster.get(keys.AUDIT_HEAD)).value)  # type: ignore[union-attr]
    early = AuditEntry.from_json((await cluster.get(keys.audit(2))).value)  # type: ignore[union-attr]
    after = head.with_(seq=2, hash=early.hash) if is_set_back else head.with_(seq=5)
    await cluster.commit([], [Put(keys.AUDIT_HEAD, after.to_json())])
    assert await here.damage() == [
        "the head is entry 2, and there are entries up to 3: the head was set back"
        if is_set_back
        else "the log ends with entry 3 and its head is entry 5: entries 4 to 5 are missing at its end"
    ]


async def test_every_hosts_memory_counts_and_who_does_not_answer_is_named(
    here: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    await here.acts(1, 2)
    for name in ("h1", "h2", "h3", "h4"):
        here.node.mirror._table(keys.HOSTS, type(host(name)))[name] = Versioned(host(name), 1)

    class Peer:
        def __init__(self, name: str) -> None:
            self.name = name

        async def peer_audit_head(self) -> RememberedHead:
            if self.name == "h3":
                raise UnavailableError("host h3 does not answer")
            if self.name == "h4":
                raise NotFoundError("there is no such route")
            return RememberedHead(host="forged", seq=2, hash="0" * 64)

    monkeypatch.setattr(ServerContext, "peer", lambda _, name: Peer(name))
    found = await here.verify()
    assert [one.sentence for one in found.damage] == [
        "h1 remembers another entry 2 than there is: the log was rewritten there or before"
    ]
    assert found.notes == (
        "h3 does not tell what it remembers: host h3 does not answer",
        "h4 does not tell what it remembers: there is no such route",
    )
    assert not found.is_intact and [one.host for one in found.remembered] == ["h2", "h1"]
