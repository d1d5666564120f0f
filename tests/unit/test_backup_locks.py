"""Who works in a repository of backups at the same time as others, and for how long a lock counts."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime

import pytest

from vdc.backup import locks
from vdc.backup.pruning import Kept, prune
from vdc.backup.repository import Repository
from vdc.model.errors import ConflictError


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # half a second each on a busy machine
    return Repository.init(str(tmp_path / "backups"))[0]


def held(repository):
    return {one.key for one in repository.storage.list("locks/")}


def test_who_removes_is_alone_and_what_was_killed_lets_go(repository):
    storage = repository.storage
    with locks.shared(storage, "a"), locks.shared(storage, "b"):
        with pytest.raises(ConflictError, match="process"):
            prune(repository, Kept(count=1), datetime.now(UTC))
        assert len(held(repository)) == 2
    with locks.alone(storage, "c"):
        for other in (locks.shared, locks.alone):
            with pytest.raises(ConflictError) as caught, other(storage, "d"):
                pass
            assert caught.value.code == "repository-busy"
    storage.write("locks/alone-dead", b"{}")
    path = repository.storage._path("locks/alone-dead")
    os.utime(path, (0, path.stat().st_mtime - locks.STALE_S - 5))
    with locks.shared(storage, "e"):
        assert len(held(repository)) == 1


def test_who_stood_still_for_too_long_adds_nothing(repository):
    now = [0.0]
    with locks.shared(repository.storage, "a", clock=lambda: now[0]) as lock:
        lock.check()
        now[0] = locks.STALE_S
        with pytest.raises(ConflictError):
            lock.check()
        now[0] = 0.0
        repository.storage.delete(lock.key)
        with pytest.raises(ConflictError) as caught:
            lock.check()
        assert caught.value.code == "lock-lost"


def test_a_lock_that_is_just_being_renewed_does_not_outlive_its_work(repository, monkeypatch):
    storage, looked, go = repository.storage, threading.Event(), threading.Event()
    monkeypatch.setattr(locks, "RENEW_S", 0.001)
    has = storage.has

    def slow(key):
        found = has(key)
        looked.set()
        go.wait(5)
        return found

    monkeypatch.setattr(storage, "has", slow)
    with locks.shared(storage, "work"):
        assert looked.wait(5)
        monkeypatch.setattr(locks, "RENEW_S", 60.0)
        threading.Timer(0.05, go.set).start()
    for thread in threading.enumerate():
        if thread.name == "repository lock":
            thread.join(5)
    assert held(repository) == set()
