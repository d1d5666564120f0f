"""What the client carries in streams: blobs, watches that go on with another agent, the console."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web
from api_support import QUICK, Agent, hang, ok, problem

from vdc.api.client import ApiClient
from vdc.model.errors import ConflictError, NotFoundError
from vdc.model.event import Event


async def test_a_blob_goes_up_with_its_length_and_comes_down_whole(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h1")
    content = bytes(range(256)) * 10_000
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    held: dict[str, bytes] = {}

    async def put(request: web.Request) -> web.Response:
        assert request.content_length == len(content)
        held[request.match_info["digest"]] = await request.read()
        return web.json_response({"digest": digest, "size_bytes": len(content)})

    def get(request: web.Request) -> web.Response:
        body = held.get(request.match_info["digest"])
        return web.Response(body=body) if body else problem(NotFoundError("no blob"))

    async def chunks() -> AsyncIterator[bytes]:
        yield content[:1000]
        yield content[1000:]

    agent.on("PUT", "/v1/blobs/{digest}", put)
    agent.on("GET", "/v1/blobs/{digest}", get)
    async with agent.running(), ApiClient([agent.endpoint], deadlines=QUICK) as api:
        assert not await api.has_blob(digest)
        assert (await api.write_blob(digest, chunks, len(content))).size_bytes == len(content)
        assert await api.has_blob(digest)
        assert b"".join([chunk async for chunk in api.read_blob(digest)]) == content


async def test_an_upload_that_is_refused_at_once_says_why(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h1")
    agent.on("PUT", "/v1/blobs/{digest}", lambda _: problem(ConflictError("full", code="no-space")))

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1024**2)

    async with agent.running(), ApiClient([agent.endpoint], deadlines=QUICK) as api:
        with pytest.raises(ConflictError) as caught:
            await api.write_blob("sha256:" + "0" * 64, chunks, 64 * 1024**2)
    assert caught.value.code == "no-space"


def event(number: int) -> Event:
    return Event(
        id=f"{number:04d}", at="2030-01-01T00:00:00Z", host="h1", name="a", code="x", sentence=f"{number}"
    )


async def test_a_stream_goes_on_with_another_agent_and_repeats_no_event(tmp_path: Path) -> None:
    first, second = Agent(tmp_path, "h1"), Agent(tmp_path, "h2")

    def streaming(*numbers: int) -> Callable[[web.Request], object]:
        async def stream(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for number in numbers:
                await response.write(event(number).to_json().encode() + b"\n\n")
            await asyncio.sleep(60)
            return response

        return stream

    first.on("GET", "/v1/watch/events", streaming(1, 2))
    second.on("GET", "/v1/watch/events", streaming(1, 2, 3))
    async with second.running(), ApiClient([first.endpoint, second.endpoint], deadlines=QUICK) as api:
        seen = []
        async with first.running():
            stream = api.watch_events()
            seen += [(await anext(stream)).id, (await anext(stream)).id]
        seen.append((await anext(stream)).id)
        await stream.aclose()  # type: ignore[attr-defined]
    assert seen == ["0001", "0002", "0003"]


async def test_a_silent_stream_of_a_dead_agent_is_left(tmp_path: Path) -> None:
    first, second = Agent(tmp_path, "h1"), Agent(tmp_path, "h2")
    alive = [True]

    async def health(request: web.Request) -> web.Response:
        return ok() if alive[0] else await hang(request)

    async def silence(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        alive[0] = False
        await asyncio.sleep(60)
        return response

    async def one(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(event(7).to_json().encode() + b"\n")
        await asyncio.sleep(60)
        return response

    first.on("GET", "/v1/health", health)
    first.on("GET", "/v1/watch/events", silence)
    second.on("GET", "/v1/watch/events", one)
    async with (
        first.running(health=False),
        second.running(),
        ApiClient([first.endpoint, second.endpoint], deadlines=QUICK) as api,
    ):
        stream = api.watch_events()
        assert (await asyncio.wait_for(anext(stream), 30)).id == "0007"
        await stream.aclose()  # type: ignore[attr-defined]


async def test_the_console_carries_bytes_both_ways_and_its_refusal_has_a_reason(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h1")

    async def console(request: web.Request) -> web.StreamResponse:
        if request.match_info["name"] != "a":
            return problem(NotFoundError("no endophyte b", code="endophyte-not-found"))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_bytes(message.data.upper())
        return socket

    agent.on("GET", "/v1/endophytes/{name}/console", console)
    async with agent.running(), ApiClient([agent.endpoint], deadlines=QUICK) as api:
        async with api.endophyte_console("a") as socket:
            await socket.send_bytes(b"login")
            message = await socket.receive()
            assert (message.type, message.data) == (WSMsgType.BINARY, b"LOGIN")
        with pytest.raises(NotFoundError) as caught:
            async with api.endophyte_console("b"):
                pass
    assert caught.value.code == "endophyte-not-found"
