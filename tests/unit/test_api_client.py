"""The client against real aiohttp servers on unix sockets: endpoints, retries, errors, streams."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from vdc.api.client import ApiClient, Deadlines
from vdc.api.endpoints import parse_endpoint
from vdc.model.endophyte import RunState
from vdc.model.errors import (
    BugError,
    ConflictError,
    InvalidError,
    NotFoundError,
    Problem,
    UnavailableError,
    VdcError,
)
from vdc.model.event import Event
from vdc.model.manifest import EndophyteManifest

QUICK = Deadlines(
    connect_s=2.0, health_s=2.0, stagger_s=0.01, read_s=0.15, last_s=0.6, idle_s=0.15, reconnect_s=0.01
)
Handler = Callable[[web.Request], "asyncio.Future[web.StreamResponse]"]


def ok(sentence: str = "done") -> web.Response:
    return web.json_response({"sentence": sentence})


def problem(error: VdcError) -> web.Response:
    return web.Response(
        status=error.http_status, text=error.problem.to_json(), content_type="application/json"
    )


class Agent:
    """A server with a few handlers that notes what it was asked."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.path = folder / f"{name}.sock"
        self.endpoint = f"unix://{self.path}"
        self.asked: list[str] = []
        self.app = web.Application(client_max_size=16 * 1024**2)
        self.app.middlewares.append(self._note)

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        return await handler(request)

    def on(self, method: str, path: str, handler: Callable[[web.Request], Any]) -> None:
        async def asynchronous(request: web.Request) -> web.StreamResponse:
            answer = handler(request)
            return await answer if inspect.isawaitable(answer) else answer

        for verb in ("GET", "HEAD") if method == "GET" else (method,):
            self.app.router.add_route(verb, path, asynchronous)

    async def healthy(self, _request: web.Request) -> web.Response:
        return ok(self.name)

    @asynccontextmanager
    async def running(self, *, health: bool = True) -> AsyncIterator[Agent]:
        if health:
            self.on("GET", "/v1/health", self.healthy)
        runner = web.AppRunner(self.app, shutdown_timeout=0.01)
        await runner.setup()
        await web.UnixSite(runner, str(self.path)).start()
        try:
            yield self
        finally:
            await runner.cleanup()


async def hang(_request: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return ok()


def nodes(_request: web.Request) -> web.Response:
    return web.json_response({"items": []})


def manifest(name: str = "a") -> EndophyteManifest:
    return EndophyteManifest.model_validate({"metadata": {"name": name}, "spec": {"image": "mycelium/mini"}})


@pytest.mark.parametrize(
    ("text", "base", "unix"),
    [
        ("http://127.0.0.1:7777", "http://127.0.0.1:7777", ""),
        ("http://[fd00::1]:7777/", "http://[fd00::1]:7777", ""),
        ("unix:///run/a/api.sock", "http://localhost", "/run/a/api.sock"),
    ],
)
def test_endpoints_have_two_forms(text: str, base: str, unix: str) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.base_url, endpoint.unix_path) == (base, unix)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h1",
        "http://",
        "http://h1",
        "http://h1:99999",
        "http://u@h:1",
        "http://h:1/x",
        "http://h:1?q=1",
        "unix://a",
        "ftp://h:1",
        "https://h:1",
        "http://[::1",
    ],
)
def test_other_endpoints_are_refused(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_endpoint(text)
    assert caught.value.code == "endpoint-invalid"


async def test_a_refused_endpoint_is_passed_over_and_the_good_one_remembered(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h2")
    agent.on("GET", "/v1/nodes", nodes)
    async with (
        agent.running(),
        ApiClient([f"unix://{tmp_path}/absent", agent.endpoint], deadlines=QUICK) as api,
    ):
        assert (await api.list_nodes()).items == ()
        await api.list_nodes()
    assert agent.asked == ["GET /v1/health", "GET /v1/nodes", "GET /v1/nodes"]


async def test_a_silent_agent_loses_the_race(tmp_path: Path) -> None:
    silent, agent = Agent(tmp_path, "h1"), Agent(tmp_path, "h2")
    silent.on("GET", "/v1/health", hang)
    async with (
        silent.running(health=False),
        agent.running(),
        ApiClient([silent.endpoint, agent.endpoint], deadlines=QUICK) as api,
    ):
        assert (await api.health()).sentence == "h2"


async def test_an_agent_that_is_unwell_is_taken_only_when_no_other_answers(tmp_path: Path) -> None:
    unwell, agent = Agent(tmp_path, "h1"), Agent(tmp_path, "h2")
    unwell.on("GET", "/v1/health", lambda _: problem(UnavailableError("no store", code="store-unavailable")))
    unwell.on("GET", "/v1/nodes", nodes)
    agent.on("GET", "/v1/nodes", nodes)
    async with unwell.running(health=False):
        async with agent.running(), ApiClient([unwell.endpoint, agent.endpoint], deadlines=QUICK) as api:
            await api.list_nodes()
            assert agent.asked[-1] == "GET /v1/nodes"
        async with ApiClient([unwell.endpoint, agent.endpoint], deadlines=QUICK) as api:
            await api.list_nodes()
            assert unwell.asked[-1] == "GET /v1/nodes"


async def test_a_read_goes_on_elsewhere_when_its_agent_falls_silent_or_answers_503(tmp_path: Path) -> None:
    first, second, third = (Agent(tmp_path, f"h{n}") for n in (1, 2, 3))
    first.on("GET", "/v1/nodes", hang)
    second.on("GET", "/v1/nodes", lambda _: problem(UnavailableError("no store")))
    third.on("GET", "/v1/nodes", nodes)
    async with first.running(), second.running(), third.running():
        endpoints = [first.endpoint, second.endpoint, third.endpoint]
        async with ApiClient(endpoints, deadlines=QUICK) as api:
            assert (await api.list_nodes()).items == ()
        assert "GET /v1/nodes" in third.asked


async def test_the_503_of_the_last_agent_is_the_answer(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h1")
    agent.on(
        "GET", "/v1/nodes", lambda _: problem(UnavailableError("etcd is down", code="store-unavailable"))
    )
    async with agent.running(), ApiClient([f"unix://{tmp_path}/no", agent.endpoint], deadlines=QUICK) as api:
        with pytest.raises(UnavailableError, match="etcd is down") as caught:
            await api.list_nodes()
    assert caught.value.code == "store-unavailable"


async def test_a_post_that_was_sent_is_never_repeated(tmp_path: Path) -> None:
    first, second = Agent(tmp_path, "h1"), Agent(tmp_path, "h2")
    for agent in (first, second):
        agent.on("POST", "/v1/endophytes", hang)
    async with (
        first.running(),
        second.running(),
        ApiClient([first.endpoint, second.endpoint], deadlines=QUICK) as api,
    ):
        with pytest.raises(UnavailableError) as caught:
            await api.create_endophyte(manifest())
    assert caught.value.code == "outcome-unknown"
    assert (first.asked + second.asked).count("POST /v1/endophytes") == 1


async def test_a_post_that_could_not_be_sent_goes_to_the_next_agent(tmp_path: Path) -> None:
    first, second = Agent(tmp_path, "h1"), Agent(tmp_path, "h2")
    second.on("POST", "/v1/endophytes", lambda _: problem(ConflictError("taken", code="name-taken")))
    async with second.running(), ApiClient([first.endpoint, second.endpoint], deadlines=QUICK) as api:
        async with first.running():
            await api.health()  # h1 is remembered, and gone when it is asked to create
        with pytest.raises(ConflictError) as caught:
            await api.create_endophyte(manifest())
    assert caught.value.code == "name-taken"


async def test_nobody_answers(tmp_path: Path) -> None:
    async with ApiClient([f"unix://{tmp_path}/a", f"unix://{tmp_path}/b"], deadlines=QUICK) as api:
        with pytest.raises(UnavailableError) as caught:
            await api.list_nodes()
    assert caught.value.code == "agent-unreachable"
    assert "vdc lab up" in caught.value.problem.hint


async def test_a_socket_path_that_is_too_long_is_an_agent_that_does_not_answer(tmp_path: Path) -> None:
    async with ApiClient([f"unix://{tmp_path}/{'a' * 200}"], deadlines=QUICK) as api:
        with pytest.raises(UnavailableError):
            await api.list_nodes()


async def test_errors_arrive_as_they_were_raised(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h1")
    gone = NotFoundError("no endophyte x", hint="look with vdc get", code="endophyte-not-found")
    agent.on("GET", "/v1/endophytes/x", lambda _: problem(gone))
    async with agent.running(), ApiClient([agent.endpoint], deadlines=QUICK) as api:
        with pytest.raises(NotFoundError) as caught:
            await api.get_endophyte("x")
    assert caught.value.problem == Problem(
        code="endophyte-not-found", message="no endophyte x", hint="look with vdc get"
    )


@pytest.mark.parametrize("body", ["<html>", "[]", '{"items": 1}', ""])
async def test_an_answer_that_is_none_is_a_bug_not_a_traceback(tmp_path: Path, body: str) -> None:
    agent = Agent(tmp_path, "h1")
    agent.on("GET", "/v1/nodes", lambda _: web.Response(text=body))
    async with agent.running(), ApiClient([agent.endpoint], deadlines=QUICK) as api:
        with pytest.raises(BugError) as caught:
            await api.list_nodes()
    assert caught.value.code == "bad-answer"


async def test_an_error_without_a_problem_names_the_request(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h1")
    async with agent.running(), ApiClient([agent.endpoint], deadlines=QUICK) as api:
        with pytest.raises(BugError, match="GET /v1/nodes with 404"):
            await api.list_nodes()


async def test_names_are_escaped_and_cannot_climb(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "h1")
    seen: list[str] = []

    def run(request: web.Request) -> web.Response:
        seen.append(request.match_info["name"])
        return problem(NotFoundError("no"))

    agent.on("POST", "/v1/endophytes/{name}/run", run)
    async with agent.running(), ApiClient([agent.endpoint], deadlines=QUICK) as api:
        with pytest.raises(NotFoundError):
            await api.run_endophyte("a/b?c", RunState.RUNNING)
        with pytest.raises(InvalidError):
            await api.run_endophyte("..", RunState.RUNNING)
    assert seen == ["a/b?c"]


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
        assert (await asyncio.wait_for(anext(stream), 5)).id == "0007"
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
