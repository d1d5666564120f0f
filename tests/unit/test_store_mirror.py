"""The mirror never shows less than what this process knows, and never takes the unreadable for absent."""

from __future__ import annotations

import pytest
from protection_world import host, pair

from vdc.model.maintenance import Maintenance
from vdc.store import keys
from vdc.store.memory import MemoryStore
from vdc.store.mirror import Mirror
from vdc.store.protocol import Change, ChangeKind, Delete, KeyValue, Put

KEY = keys.pair("web")


class LateStore:
    """A store whose listings are those of an earlier moment."""

    def __init__(self, store):
        self._store = store
        self.listing = None

    async def list(self, prefix):
        return self.listing or await self._store.list(prefix)


@pytest.fixture
def store():
    return MemoryStore()


async def put(store, text):
    return (await store.commit([], [Put(KEY, text)])).revision


async def test_a_listing_from_before_does_not_undo_ones_own_commit(store):
    late = LateStore(store)
    mirror = Mirror(late, report=lambda sentence: None)
    await put(store, pair(epoch=2).to_json())
    late.listing = await store.list(keys.ROOT)
    won = pair(epoch=3, primary="h2", secondary=None, spares=("h3", "h1"))
    revision = await put(store, won.to_json())
    mirror.apply_early(KeyValue(KEY, won.to_json(), revision, 1))
    await mirror.read_all()
    assert mirror.pair("web").epoch == 3


async def test_an_unreadable_record_is_neither_gone_nor_as_it_was(store):
    said = []
    mirror = Mirror(store, report=said.append)
    await put(store, pair().to_json())
    await mirror.read_all()
    assert mirror.is_readable("web")
    await put(store, '{"epoch": "tomorrow"}')
    await mirror.read_all()
    assert not mirror.is_readable("web")
    assert KEY in said[0]
    await put(store, pair(epoch=4).to_json())
    await mirror.read_all()
    assert mirror.is_readable("web")


async def test_a_watch_that_repeats_an_older_change_does_not_go_back(store):
    mirror = Mirror(store, report=lambda sentence: None)
    newer, older = pair(epoch=3, secondary=None).to_json(), pair(epoch=2).to_json()
    mirror.apply_early(KeyValue(KEY, newer, 9, 1))
    mirror.apply(Change(ChangeKind.PUT, 8, KeyValue(KEY, older, 8, 1)))
    assert mirror.pair("web").epoch == 3


async def test_refresh_shows_what_the_watch_has_not_told_yet(store):
    mirror = Mirror(store, report=lambda sentence: None)
    await mirror.read_all()
    await mirror.refresh(KEY)
    assert mirror.pair("web") is None, "what does not exist stays unknown"
    await put(store, pair(epoch=7).to_json())
    assert mirror.pair("web") is None
    await mirror.refresh(KEY)
    assert mirror.pair("web").epoch == 7


async def test_a_drained_host_is_shown_as_not_schedulable_whatever_its_agent_writes(store):
    mirror = Mirror(store, report=lambda sentence: None)
    wish = Maintenance(host="h1", since="2026-01-01T00:00:00Z")
    await store.commit([], [Put(keys.host(name), host(name).to_json()) for name in ("h1", "h2")])
    await mirror.read_all()
    assert mirror.hosts["h1"].value.schedulable

    async def happens(kind, key, value=""):
        done = await store.commit([], [Put(key, value) if kind is ChangeKind.PUT else Delete(key)])
        mirror.apply(Change(kind, done.revision, KeyValue(key, value, done.revision, 1)))
        return {name: found.value.schedulable for name, found in mirror.hosts.items()}

    assert await happens(ChangeKind.PUT, keys.maintenance("h1"), wish.to_json()) == {"h1": False, "h2": True}
    assert await happens(ChangeKind.PUT, keys.host("h1"), host("h1").to_json()) == {"h1": False, "h2": True}
    assert await happens(ChangeKind.PUT, keys.maintenance("h2"), "{}") == {"h1": False, "h2": False}
    assert await happens(ChangeKind.DELETE, keys.maintenance("h2")) == {"h1": False, "h2": True}
    assert await happens(ChangeKind.DELETE, keys.maintenance("h1")) == {"h1": True, "h2": True}
