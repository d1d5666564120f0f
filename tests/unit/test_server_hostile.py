"""Clients that mean harm, over the real API and raw sockets: too many, too slow, too large, misspelt."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import socket
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from server_support import Served, served

from hostagent.server import http, limits
from hostagent.server.limits import RUNNER_OPTIONS, LimitedSite, Listener, listen, listen_unix

OPEN_S = 5.0
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setitem(RUNNER_OPTIONS, "keepalive_timeout", 0.3)
    monkeypatch.setitem(RUNNER_OPTIONS, "lingering_time", 0.3)
    monkeypatch.setattr(limits, "PACE_S", 0.3)
    monkeypatch.setattr(http, "BODY_S", 0.3)
    async with served(tmp_path) as running:
        yield running


async def ask(api: Served, request: bytes, *, then: bytes = b"") -> bytes:
    """Everything that comes back until the server closes."""
    reader, writer = await asyncio.open_unix_connection(str(api.socket))
    try:
        async with asyncio.timeout(OPEN_S):
            writer.write(request)
            with suppress(ConnectionError):
                await writer.drain()
            writer.write(then)
            with suppress(ConnectionError):
                return await reader.read()
            return b""
    finally:
        writer.close()


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def code(answer: bytes) -> str:
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["code"])


async def assert_well(api: Served) -> None:
    assert status(await ask(api, get("/v1/health"))) == 200


# ---- sizes


@pytest.mark.parametrize(
    "request_text",
    [
        get("/v1/events?name=" + "a" * 9_000),
        get("/v1/health", "X: " + "a" * 9_000),
        get("/v1/health", *(f"X{n}: 1" for n in range(200))),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
        get("/v1/health", "Content-Length: 5", "Transfer-Encoding: chunked"),
        get("/v1/health", "Content-Length: -1"),
        get("/v1/health", "Content-Length: 1", "Content-Length: 2"),
    ],
    ids=["line", "header", "headers", "tls", "two lengths", "negative", "length twice"],
)
async def test_a_request_that_is_none_is_refused_and_closed(api: Served, request_text: bytes) -> None:
    assert status(await ask(api, request_text)) == 400
    await assert_well(api)


async def test_a_body_is_read_up_to_its_limit(api: Served) -> None:
    size = http.MAX_BODY_BYTES + 1
    head = get("/v1/endophytes", f"Content-Length: {size}", method="POST")
    answer = await ask(api, head, then=b"[" + b" " * (size - 1))
    assert (status(answer), code(answer)) == (413, "body-too-large")


async def test_a_packed_body_is_not_unpacked(api: Served) -> None:
    bomb = zlib.compress(b"[" * (64 << 20))
    head = get("/v1/endophytes", f"Content-Length: {len(bomb)}", "Content-Encoding: deflate", method="POST")
    answer = await ask(api, head, then=bomb)
    assert (status(answer), code(answer)) == (400, "body-invalid")


@pytest.mark.parametrize(
    "body",
    [b"[" * 40 + b"]" * 40, b'{"state":"\\ud800"}', b'{"\\ud800":1}', b'{"a":1}{"a":2}', b'{"a":' + b"9" * 5000 + b"}"],
    ids=["deep", "half a character", "half a character as key", "two values", "a long number"],
)  # fmt: skip
async def test_a_body_is_read_as_strictly_as_a_manifest(api: Served, body: bytes) -> None:
    head = get("/v1/endophytes/web/run", f"Content-Length: {len(body)}", method="POST")
    answer = await ask(api, head, then=body)
    assert (status(answer), code(answer)) == (400, "body-invalid")


# ---- names


@pytest.mark.parametrize(
    "name",
    ["..%2F..%2Fetc", "%00", "web%2Fh1", "WEB", "a" * 64, "%ff", "%ED%A0%80", "-a", "web%0A", "%F0%9F%8D%84"],
)  # fmt: skip
async def test_a_name_in_a_path_is_checked_before_anything_is_looked_up(api: Served, name: str) -> None:
    for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/console"), ("GET", "/log")):
        answer = await ask(api, get(f"/v1/endophytes/{name}{rest}", method=method))
        assert (status(answer), code(answer)) == (400, "name-invalid"), answer


@pytest.mark.parametrize("digest", ["..%2F..%2Fagent.yaml", "sha256:" + "A" * 64, "sha256:%00", "x"])
async def test_a_digest_in_a_path_is_checked(api: Served, digest: str) -> None:
    for method in ("GET", "PUT"):
        answer = await ask(api, get(f"/v1/blobs/{digest}", "Content-Length: 0", method=method))
        assert (status(answer), code(answer)) == (400, "digest-invalid"), answer


# ---- time


@pytest.mark.parametrize("half", [b"", b"GET /v1/he", b"GET /v1/health HTTP/1.1\r\nX-Slow: "])
async def test_a_request_that_does_not_come_is_not_waited_for(api: Served, half: bytes) -> None:
    assert await ask(api, half) == b""


async def test_a_header_that_drips_is_not_waited_for(api: Served) -> None:
    reader, writer = await asyncio.open_unix_connection(str(api.socket))

    async def drip() -> None:
        writer.write(b"GET /v1/health HTTP/1.1\r\nX-Slow: ")
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(OPEN_S):
            with suppress(ConnectionError):
                assert await reader.read() == b""
    finally:
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        writer.close()


async def test_a_body_that_drips_is_not_waited_for(api: Served) -> None:
    head = get("/v1/endophytes", "Content-Length: 1000", method="POST")
    answer = await ask(api, head, then=b"{")
    assert (status(answer), code(answer)) == (400, "body-late")


async def test_an_upload_that_drips_is_given_up_and_leaves_nothing(api: Served) -> None:
    digest = "sha256:" + "0" * 64
    head = get(f"/v1/blobs/{digest}", "Content-Length: 1000000000", method="PUT")
    answer = await ask(api, head, then=b"x" * 1000)
    assert (status(answer), code(answer)) == (400, "body-late")
    assert not list(api.context.blobs.folder.iterdir())


async def test_an_upload_goes_on_for_as_long_as_it_keeps_pace(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PACE_BYTES", 1000)
    content = b"x" * 8000
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    reader, writer = await asyncio.open_unix_connection(str(api.socket))
    writer.write(get(f"/v1/blobs/{digest}", "Content-Length: 8000", method="PUT"))
    for begin in range(0, 8000, 1000):
        writer.write(content[begin : begin + 1000])
        await writer.drain()
        await asyncio.sleep(0.1)  # longer than PACE_S in all
    assert status(await reader.read()) == 200
    writer.close()


async def test_an_upload_of_unknown_size_stops_where_the_reserve_begins(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    frees = iter([10 << 20, *([0] * 100)])
    monkeypatch.setattr(api.context.blobs, "_reserve_bytes", 1 << 20)
    monkeypatch.setattr(api.context.blobs, "_free_bytes", lambda folder: next(frees))
    head = get("/v1/blobs/sha256:" + "0" * 64, "Transfer-Encoding: chunked", method="PUT")
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    answer = await ask(api, head, then=chunk * 4 + b"0\r\n\r\n")
    assert (status(answer), code(answer)) == (422, "no-space")
    assert not list(api.context.blobs.folder.iterdir())


async def test_a_flood_of_requests_on_one_connection_is_answered_at_the_pace_it_is_read(api: Served) -> None:
    one = b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    _, writer = await asyncio.open_unix_connection(str(api.socket))
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while True:
            writer.write(one * 100)
            await writer.drain()
            sent += 100

    flooding = asyncio.create_task(flood())
    await asyncio.sleep(0.5)
    before = sent
    await asyncio.sleep(0.2)
    assert sent == before  # nothing more is taken from whoever reads no answers
    await assert_well(api)
    flooding.cancel()
    await asyncio.gather(flooding, return_exceptions=True)
    writer.transport.abort()
    async with asyncio.timeout(OPEN_S):
        while _accepted():
            await asyncio.sleep(0.01)


# ---- connections


async def health(request: web.Request) -> web.Response:
    return web.Response(text="well")


@pytest.fixture
async def listener(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Listener]:
    monkeypatch.setattr(Listener, "most", 6)
    monkeypatch.setattr(Listener, "most_per_address", 4)
    app = web.Application()
    app.router.add_get("/", health)
    runner = web.AppRunner(app, access_log=None, **RUNNER_OPTIONS)
    await runner.setup()
    made = listen("127.0.0.1", 0)
    await LimitedSite(runner, made).start()
    yield made
    await runner.cleanup()


async def connect(
    listener: Listener, stack: AsyncExitStack, local: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = listener.getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(local, 0))
    stack.callback(writer.close)
    return reader, writer


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    with suppress(ConnectionError):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        async with asyncio.timeout(OPEN_S):
            return (await reader.read(12)) == b"HTTP/1.1 200"
    return False


async def until(listener: Listener, count: int) -> None:
    async with asyncio.timeout(OPEN_S):
        while listener.open.total() != count:
            await asyncio.sleep(0.01)


async def test_so_many_connections_from_one_address_and_so_many_in_all(listener: Listener) -> None:
    async with AsyncExitStack() as stack:
        first = [await connect(listener, stack, "127.0.0.1") for _ in range(4)]
        assert all([await answers(*one) for one in first])
        assert not await answers(*await connect(listener, stack, "127.0.0.1"))
        second = [await connect(listener, stack, "127.0.0.2") for _ in range(2)]
        assert all([await answers(*one) for one in second])
        assert not await answers(*await connect(listener, stack, "127.0.0.3"))
        assert listener.open == {"127.0.0.1": 4, "127.0.0.2": 2}
        first[0][1].close()
        await until(listener, 5)
        assert await answers(*await connect(listener, stack, "127.0.0.1"))
    await until(listener, 0)
    assert not listener.open


async def test_a_handshake_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.2)
    runner = web.AppRunner(web.Application(), access_log=None)
    await runner.setup()
    made = listen("127.0.0.1", 0)
    await LimitedSite(runner, made, ssl_context=server_context(tmp_path)).start()
    try:
        async with AsyncExitStack() as stack:
            reader, _ = await connect(made, stack, "127.0.0.1")
            async with asyncio.timeout(OPEN_S):
                assert await reader.read() == b""
        await until(made, 0)
    finally:
        await runner.cleanup()


def server_context(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(hours=1))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem += builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (folder / "both.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context


async def test_a_connection_that_is_torn_down_frees_its_place(listener: Listener) -> None:
    for _ in range(20):
        sock = socket.create_connection(listener.getsockname())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        sock.close()
    async with AsyncExitStack() as stack:
        while not await answers(*await connect(listener, stack, "127.0.0.1")):
            await asyncio.sleep(0.01)
    await until(listener, 0)


async def test_a_peer_that_takes_nothing_is_given_up_by_the_kernel(listener: Listener) -> None:
    async with AsyncExitStack() as stack:
        await connect(listener, stack, "127.0.0.1")
        await until(listener, 1)
    with socket.create_connection(listener.getsockname()):
        await until(listener, 1)
        (server,) = [one for one in _accepted() if one.getsockname() == listener.getsockname()]
        assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == limits.STUCK_S * 1000


def _accepted() -> list[socket.socket]:
    found = [one for one in gc.get_objects() if isinstance(one, limits._Admitted)]
    return [one for one in found if one.fileno() >= 0]


def test_the_unix_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    with listen_unix(tmp_path / "a.sock"):
        assert (tmp_path / "a.sock").stat().st_mode & 0o777 == 0o600
