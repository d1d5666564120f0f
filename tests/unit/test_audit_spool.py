"""The spool: what was begun is on the disk before it is done, and a crash, a full disk or a cut log loses nothing."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_support import asked

from hostagent.drivers.audit import spool as module
from hostagent.drivers.audit.spool import Spool
from vdc.model.audit import AuditEntry, AuditHead
from vdc.store.audit import AuditLog
from vdc.store.memory import MemoryStore

FILE = "spool.jsonl"


def opened(folder: Path) -> Spool:
    made = Spool(folder, "h1")
    made.load()
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


async def act(spool: Spool, number: int, **fields: object) -> None:
    entry = asked(number).with_(spool="", number=0, **fields)
    await spool.begin(entry)
    spool.end(entry)


def ids(entries: list[AuditEntry]) -> list[int]:
    return [int(entry.id, 16) for entry in entries]


async def drained(spool: Spool, log: AuditLog) -> None:
    spool.appended(await log.end())
    while batch := spool.waiting(100):
        spool.appended(await log.append(batch, 0))


async def test_what_is_begun_is_on_the_disk_before_it_is_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    spool = opened(folder)
    await spool.begin(asked(7))
    assert json.loads((folder / FILE).read_text())["begin"]["id"] == asked(7).id
    assert len(synced) == 1
    assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_requests_share_a_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    spool = opened(folder)
    await asyncio.gather(*(spool.begin(asked(number)) for number in range(50)))
    assert 1 <= len(synced) <= 3


async def test_after_a_crash_what_had_not_ended_is_unknown(folder: Path) -> None:
    spool = opened(folder)
    await act(spool, 1)
    await spool.begin(asked(2))
    await spool.flush()
    found = opened(folder).waiting(10)
    assert ids(found) == [1] and found[0].result == "ok"
    again = opened(folder)  # by one process each
    again.appended(AuditHead(drained={"h1": {"spool": found[0].spool, "number": 1}}))  # type: ignore[dict-item]
    (left,) = again.waiting(10)
    assert (left.id, left.result, left.number) == (asked(2).id, "unknown", 1)


@pytest.mark.parametrize("cut", [2, 20, 200])
async def test_a_line_that_a_power_cut_has_torn(folder: Path, cut: int) -> None:
    spool = opened(folder)
    await act(spool, 1)
    await act(spool, 2)
    await spool.flush()
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[:-cut])
    again = opened(folder)
    assert ids(again.waiting(10)) == [1]
    again.appended(AuditHead(drained={"h1": {"spool": again.waiting(1)[0].spool, "number": 1}}))  # type: ignore[dict-item]
    assert [entry.result for entry in again.waiting(10)] == ["unknown"]


async def test_every_process_numbers_anew_and_nothing_is_appended_twice(folder: Path) -> None:
    log = AuditLog(MemoryStore())
    for process in range(3):
        spool = opened(folder)
        for number in range(4):
            await act(spool, process * 10 + number)
        await spool.flush()
        if process != 1:  # the second finds no store
            await drained(spool, log)
    assert await numbers(log) == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    await drained(opened(folder), log)
    assert len(await numbers(log)) == 12


async def test_where_the_logs_end_was_cut_off_it_is_appended_again(folder: Path) -> None:
    """A member of etcd that goes on alone may lack it."""
    old, new = AuditLog(MemoryStore()), AuditLog(MemoryStore())
    spool = opened(folder)
    for number in range(3):
        await act(spool, number)
    await drained(spool, new)
    await drained(spool, old)
    for number in range(3, 6):
        await act(spool, number)
    await drained(spool, old)
    await drained(spool, new)
    assert await numbers(new) == [0, 1, 2, 3, 4, 5]


async def numbers(log: AuditLog) -> list[int]:
    pages = [page async for page in log.entries(1)]
    return ids([AuditEntry.from_json(text) for page in pages for _, text in page])


async def test_the_file_does_not_grow_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_BYTES", 20_000)
    monkeypatch.setattr(module, "KEPT", 5)
    log, spool = AuditLog(MemoryStore()), opened(folder)
    for number in range(200):
        await act(spool, number)
        await spool.flush()
        await drained(spool, log)
    await spool.flush()
    assert (folder / FILE).stat().st_size < 25_000
    assert len(await numbers(log)) == 200
    assert ids(opened(folder).waiting(10)) == ids(opened(folder).waiting(10))
    await drained(opened(folder), log)
    assert len(await numbers(log)) == 200


# ---- a disk that is full


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """The real write fails as on a full disk, having written a part."""
    state = {"is_full": False}
    append, anew = Spool._append, Spool._write_anew

    def failing_append(self: Spool, lines: list[str], is_durable: bool) -> None:
        if state["is_full"]:
            with self._path.open("ab") as file:
                file.write(b'{"begin": {"id"')
            raise OSError(28, "No space left on device")
        append(self, lines, is_durable)

    def failing_anew(self: Spool, *what: object) -> None:
        if state["is_full"]:
            raise OSError(28, "No space left on device")
        anew(self, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(Spool, "_append", failing_append)
    monkeypatch.setattr(Spool, "_write_anew", failing_anew)
    return lambda is_full: state.update(is_full=is_full)


async def test_a_full_disk_hinders_nobody_and_loses_nothing(
    folder: Path, full: Callable[[bool], None]
) -> None:
    log, spool = AuditLog(MemoryStore()), opened(folder)
    await act(spool, 1)
    full(True)
    await act(spool, 2)
    await act(spool, 3)
    await spool.flush()
    full(False)
    await act(spool, 4)
    await spool.flush()
    assert ids(opened(folder).waiting(10)) == [1, 2, 3, 4]
    await drained(spool, log)
    assert await numbers(log) == [1, 2, 3, 4]


async def test_with_a_full_disk_it_still_reaches_the_log(folder: Path, full: Callable[[bool], None]) -> None:
    full(True)
    log, spool = AuditLog(MemoryStore()), opened(folder)
    await act(spool, 1)
    await drained(spool, log)
    assert await numbers(log) == [1]


async def test_a_disk_that_hangs_is_waited_for_a_moment_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, released = opened(folder), asyncio.Event()

    async def hangs(*_: object) -> None:
        await released.wait()

    monkeypatch.setattr(module, "in_thread", hangs)
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    await act(spool, 1)
    assert ids(spool.waiting(10)) == [1]
    released.set()
    await spool.flush()


async def test_where_too_many_wait_the_next_says_how_many_were_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    log, spool = AuditLog(MemoryStore()), opened(folder)
    for number in range(5):
        await act(spool, number)
    await drained(spool, log)
    await act(spool, 5)
    await drained(spool, log)
    assert await numbers(log) == [0, 1, 2, 5]
    head = await log.head()
    assert head is not None
    (last,) = [text async for page in log.entries(head.seq) for _, text in page]
    assert AuditEntry.from_json(last).gap == 2


async def test_a_file_that_cannot_be_read_is_kept_aside(folder: Path) -> None:
    (folder / FILE).mkdir(parents=True)
    spool = opened(folder)
    await act(spool, 1)
    await spool.flush()
    assert (folder / "spool.unreadable").is_dir() and ids(spool.waiting(10)) == [1]


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file")
    spool = opened(tmp_path / "audit")
    await act(spool, 1)
    assert ids(spool.waiting(10)) == [1]
