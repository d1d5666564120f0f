"""Every route has a handler, and whatever a client sends, it gets a record or a Problem."""

from __future__ import annotations

import asyncio
import io

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from hostagent.server import http
from hostagent.server.http import MAX_BODY_BYTES, errors_as_problems, parse_body
from vdc.api.models import RunRequest
from vdc.model.errors import ConflictError


async def echo(request):
    return web.json_response(await parse_body(request))


async def run(request):
    return RunRequest.model_validate(await parse_body(request))


async def refuse(request):
    raise ConflictError("no", code="some-code", hint="do this")


async def defect(request):
    raise ZeroDivisionError


@pytest.fixture
async def client():
    app = web.Application(middlewares=[errors_as_problems], client_max_size=MAX_BODY_BYTES)
    for handler in (echo, run, refuse, defect):
        app.router.add_post(f"/{handler.__name__}", handler)
    async with TestClient(TestServer(app)) as made:
        yield made


async def ask(client, path, body=b"{}"):
    async with client.post(path, data=body) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff\xfe", b'{"a":1,"a":2}', b'{"a":NaN}', b"[" * 100_000],
    ids=["torn", "binary", "twice", "nan", "deep"],
)
async def test_a_body_that_is_no_json_is_refused(client, body):
    status, problem = await ask(client, "/echo", body)
    assert (status, problem["code"]) == (400, "body-invalid")


async def test_no_encoding_but_utf_8_is_read_whatever_the_sender_says(client):
    for name in ("nope", "punycode", "utf-16"):
        header = {"Content-Type": f"application/json; charset={name}"}
        async with client.post("/echo", data=b'{"a": 1}', headers=header) as answer:
            assert (answer.status, await answer.json()) == (200, {"a": 1})


async def test_an_unknown_field_is_named(client):
    status, problem = await ask(client, "/run", b'{"state":"running","sate":1}')
    assert (status, problem["code"]) == (400, "body-invalid")
    assert problem["message"].startswith("sate:")


async def test_an_oversized_body_is_refused(client):
    try:
        status, problem = await ask(client, "/echo", io.BytesIO(b"x" * (2 * MAX_BODY_BYTES)))
    except aiohttp.ClientError:
        return  # the server stopped reading before everything was sent: refused as well
    assert (status, problem["code"]) == (413, "body-too-large")


async def test_a_body_that_never_comes_is_given_up(client, monkeypatch):
    monkeypatch.setattr(http, "BODY_S", 0.05)

    async def half():
        yield b"{"
        await asyncio.Event().wait()

    assert await ask(client, "/echo", half()) == (
        400, {"code": "body-late", "message": "the body did not come within 0.05 s", "hint": ""}
    )  # fmt: skip


async def test_errors_keep_their_code_and_hint(client):
    assert await ask(client, "/refuse") == (409, {"code": "some-code", "message": "no", "hint": "do this"})


async def test_a_defect_is_a_problem_without_insides(client):
    status, problem = await ask(client, "/defect")
    assert (status, problem["code"]) == (500, "internal")
    assert "ZeroDivisionError" in problem["message"]


async def test_an_unknown_route_is_a_problem(client):
    status, problem = await ask(client, "/nowhere")
    assert (status, problem["code"]) == (404, "no-such-route")
