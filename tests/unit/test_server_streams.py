"""Streams and logs as the API gives them: a reader that stands still costs nothing, and numbers are checked."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from protection_world import endophyte
from server_support import served

from hostagent.server import endophytes, http
from hostagent.server.endophytes import EndophyteHandlers, _read_log
from hostagent.server.http import number, stream_lines
from vdc.model.errors import InvalidError
from vdc.model.event import Event
from vdc.store import keys
from vdc.store.protocol import Put


class Mirror:
    """As much of one as a stream of views looks at."""

    def __init__(self):
        self.listeners = []
        self.endophytes = {name: endophyte(name) for name in ("a", "b")}

    def subscribe(self, listener):
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def endophyte(self, name):
        return self.endophytes.get(name)

    def change(self, name, times):
        for _ in range(times):
            for listener in self.listeners:
                listener(keys.observed(name, "h1"))


async def test_many_changes_of_one_vm_are_one_to_whoever_reads_slowly(monkeypatch):
    mirror, views = Mirror(), []

    def view(_, present):
        views.append(present.name)
        return len(views)  # each one differs from the one before

    monkeypatch.setattr(endophytes.views, "endophyte_view", view)
    handlers = EndophyteHandlers.__new__(EndophyteHandlers)
    handlers._mirror = mirror
    changes = handlers._changes(None)
    assert [await anext(changes), await anext(changes)] == [1, 2]
    mirror.change("a", times=1_000)
    mirror.change("b", times=1_000)
    assert [await anext(changes), await anext(changes)] == [3, 4]
    assert views == ["a", "b", "a", "b"]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(changes), 0.05)
    await changes.aclose()
    assert not mirror.listeners


async def test_a_reader_that_takes_nothing_is_left(monkeypatch):
    monkeypatch.setattr(http, "WRITE_S", 0.1)
    ended = asyncio.Event()

    async def endless():
        try:
            while True:
                yield Event(
                    at="2026-01-01T00:00:00Z", host="h1", name="a", code="drill", sentence="x" * 60_000
                )
        finally:
            ended.set()

    async def handler(request):
        return await stream_lines(request, endless())

    app = web.Application()
    app.router.add_get("/", handler)
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/")
        await asyncio.wait_for(ended.wait(), 30)
        answer.close()


@pytest.mark.parametrize("text", ["", "-1", "1.5", "٣", "4", "9" * 5_000], ids=str)
def test_a_number_of_a_query_is_checked(text):
    with pytest.raises(InvalidError):
        number(text[:5_000], 0, 3)


def test_no_line_of_a_log_is_no_line_and_its_end(tmp_path):
    (tmp_path / "guest").mkdir()
    path = tmp_path / "guest" / "serial.log"
    path.write_bytes(b"one\ntwo\n")
    assert _read_log(tmp_path, "serial.log", 0, None) == ("", 8)
    assert _read_log(tmp_path, "serial.log", 1, None) == ("two\n", 8)


async def test_an_event_that_cannot_be_read_ends_no_stream(tmp_path):
    async with (
        served(tmp_path) as api,
        aiohttp.ClientSession() as session,
        session.get(f"{api.url}/v1/watch/events?name=web") as answer,
    ):
        store, events = api.context.host.store, api.context.host.events
        await store.commit([], [Put(f"{keys.EVENTS}unreadable", "{}")])
        await events.append(events.make("web", "started", "started on h1"))
        async with asyncio.timeout(30):
            assert json.loads(await answer.content.readline())["code"] == "started"
