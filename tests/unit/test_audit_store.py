"""The audit log in the store: appended to once, whatever answers get lost; read by pages; trimmed."""

from __future__ import annotations

import asyncio

import pytest
from audit_support import asked

from vdc.model.audit import AuditAnchor, AuditEntry
from vdc.model.audit_chain import ChainCheck
from vdc.model.errors import UnavailableError
from vdc.store import keys
from vdc.store.audit import AuditLog
from vdc.store.memory import Fault, MemoryStore
from vdc.store.mirror import Mirror
from vdc.store.protocol import Delete, Put


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def read(store: MemoryStore) -> list[AuditEntry]:
    pages = [page async for page in AuditLog(store).entries(1)]
    return [AuditEntry.from_json(text) for page in pages for _, text in page]


async def damage(store: MemoryStore, *, keep: int = 0) -> list[str]:
    log = AuditLog(store)
    check = ChainCheck(await log.anchor())
    async for page in log.entries(1):
        for seq, text in page:
            check.take(seq, text)
    check.finish(await log.head(), keep=keep)
    return [one.sentence for one in check.damage]


def many(count: int, first: int = 1, **fields: object) -> list[AuditEntry]:
    return [asked(number, **fields) for number in range(first, first + count)]


async def test_entries_are_chained_in_their_order(store: MemoryStore) -> None:
    log = AuditLog(store)
    head = await log.append(many(250), 0)
    found = await read(store)
    assert [one.number for one in found] == list(range(1, 251)) == [one.seq for one in found]
    assert (head.seq, head.hash) == (250, found[-1].hash) and head == await log.head() == await log.end()
    assert await damage(store) == []


async def test_what_is_there_already_is_not_appended_again(store: MemoryStore) -> None:
    log = AuditLog(store)
    await log.append(many(3), 0)
    await log.append(many(5), 0)
    await log.append(many(2, spool="another"), 0)
    assert [one.number for one in await read(store)] == [1, 2, 3, 4, 5, 1, 2]


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LATE, Fault.LOST_REQUEST, Fault.REPEATED])
async def test_a_commit_of_unknown_outcome_appends_once(store: MemoryStore, fault: Fault) -> None:
    log = AuditLog(store)
    await log.append(many(1), 0)
    store.fail_next(fault)
    try:
        await log.append(many(3), 0)
    except UnavailableError:
        await log.append(many(3), 0)
    store.cluster.apply_delayed()
    await log.append(many(4), 0)
    assert [one.number for one in await read(store)] == [1, 2, 3, 4]
    assert await damage(store) == []


async def test_several_writers(store: MemoryStore) -> None:
    async def write(host: str) -> None:
        for number in range(1, 21):
            await AuditLog(store.client()).append([asked(number, host=host)], 0)

    await asyncio.gather(*(write(host) for host in ("h1", "h2", "h3")))
    found = await read(store)
    for host in ("h1", "h2", "h3"):
        assert [one.number for one in found if one.host == host] == list(range(1, 21))
    assert len(found) == 60 and await damage(store) == []


async def test_a_lineage_never_falls(store: MemoryStore) -> None:
    log = AuditLog(store)
    await log.append(many(1), 2)
    await log.append(many(2), 1)
    assert [one.lineage for one in await read(store)] == [2, 2]


# ---- a log that was damaged goes on, and the damage shows


async def test_without_its_head_it_goes_on_behind_its_last_entry(store: MemoryStore) -> None:
    log = AuditLog(store)
    before = await log.append(many(150), 0)
    await store.commit([], [Delete(keys.AUDIT_HEAD)])
    assert await log.end() == before
    await log.append(many(152), 0)
    assert [one.number for one in await read(store)] == list(range(1, 153))
    assert await damage(store) == []


async def test_with_its_head_set_back_nothing_is_overwritten(store: MemoryStore) -> None:
    log = AuditLog(store)
    early = await log.append(many(3), 0)
    await log.append(many(150), 0)
    await store.commit([], [Put(keys.AUDIT_HEAD, early.to_json())])
    await log.append(many(2, first=151), 0)
    assert [one.number for one in await read(store)] == list(range(1, 153))
    assert await damage(store) == []


@pytest.mark.parametrize("text", ["", "x", '{"seq":-1}', '{"seq":999999999999}', '{"seq":"a"}'])
async def test_a_head_that_makes_no_sense(store: MemoryStore, text: str) -> None:
    log = AuditLog(store)
    await log.append(many(3), 0)
    await store.commit([], [Put(keys.AUDIT_HEAD, text)])
    assert await log.head() is None
    await log.append(many(4), 0)
    assert await damage(store) == []


async def test_an_entry_that_cannot_be_read_is_passed_over(store: MemoryStore) -> None:
    log = AuditLog(store)
    await log.append(many(3), 0)
    await store.commit([], [Put(keys.audit(3), "x"), Delete(keys.AUDIT_HEAD)])
    await log.append(many(5, first=4), 0)
    assert await damage(store) == ["entry 3 cannot be read"]


async def test_foreign_keys_are_not_looked_at(store: MemoryStore) -> None:
    log = AuditLog(store)
    await log.append(many(3), 0)
    await store.commit(
        [], [Put(keys.AUDIT_ENTRIES + name, "x") for name in ("0000000000zz", "00000000000", "²")]
    )
    assert await damage(store) == []


# ---- trimming


async def test_whole_pages_are_trimmed_and_the_rest_is_anchored(store: MemoryStore) -> None:
    log = AuditLog(store, keep=150)
    await log.append(many(430), 0)
    assert (await log.trim()).count == 199  # entry 0 does not exist
    found = await read(store)
    assert (found[0].seq, found[-1].seq) == (200, 430)
    assert await log.anchor() == AuditAnchor(seq=199, hash=found[0].prev)
    assert await damage(store, keep=150) == [] and (await log.trim()).count == 0
    await log.append(many(450), 0)
    assert (await log.trim()).count == 100
    assert await damage(store, keep=150) == []


async def test_a_hole_at_the_end_of_a_page_does_not_keep_it(store: MemoryStore) -> None:
    log = AuditLog(store, keep=10)
    await log.append(many(230), 0)
    await store.commit([], [Delete(keys.audit(99))])
    await log.trim()
    assert (await read(store))[0].seq == 200 and await damage(store, keep=10) == []


async def test_nothing_is_trimmed_before_there_is_enough(store: MemoryStore) -> None:
    log = AuditLog(store)
    assert (await log.trim()).count == 0
    await log.append(many(230), 0)
    assert (await log.trim()).count == 0 and len(await read(store)) == 230


async def test_the_mirror_carries_none_of_it(store: MemoryStore) -> None:
    await AuditLog(store).append(many(3), 0)
    assert not keys.AUDIT.startswith(keys.ROOT)
    assert (await store.list(keys.ROOT)).items == ()
    seen: list[str] = []
    mirror = Mirror(store, report=seen.append)
    mirror.subscribe(seen.append)
    task = asyncio.create_task(mirror.run())
    await mirror.synced.wait()
    await AuditLog(store).append(many(4), 0)
    await store.commit([], [Put(keys.image_name("x"), "y")])
    async with asyncio.timeout(30):
        while keys.image_name("x") not in seen:
            await asyncio.sleep(0)
    task.cancel()
    assert seen == ["", keys.image_name("x")]
