"""A QMP session against a scripted server: what QEMU may do wrong, and what the caller gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hostagent.drivers.qemu.qmp import (
    QmpClosedError,
    QmpCommandError,
    QmpError,
    QmpGarbledError,
    QmpSession,
    QmpTimeoutError,
    QmpUnreachableError,
)
from hostagent.drivers.qemu.replies import MAX_TEXT
from vdc.model.errors import RefusedError, UnavailableError

GREETING = {
    "QMP": {
        "version": {"qemu": {"major": 11, "minor": 1, "micro": 3}, "package": ""},
        "capabilities": ["oob"],
    }
}
Behaviour = Callable[[dict[str, Any], "Wire"], Awaitable[None]]


class Wire:
    """The server's end of one connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    def send(self, message: object) -> None:
        self.writer.write(json.dumps(message).encode() + b"\r\n")


async def requests(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Commands come one after the other without anything between them."""
    text = ""
    while more := await reader.read(4096):
        text += more.decode()
        while text:
            try:
                request, end = json.JSONDecoder().raw_decode(text)
            except json.JSONDecodeError:
                break
            text = text[end:].lstrip()
            yield request


@contextlib.asynccontextmanager
async def server(folder: Path, behaviour: Behaviour, *, greeting: bytes | None = None) -> AsyncIterator[Path]:
    """Greets, accepts the negotiation, and leaves every later command to `behaviour`."""
    writers = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        wire = Wire(writer)
        writer.write(json.dumps(GREETING).encode() + b"\r\n" if greeting is None else greeting)
        async for request in requests(reader):
            if request.get("execute") == "qmp_capabilities":
                wire.send({"return": {}})
            else:
                await behaviour(request, wire)

    path = folder / "qmp.sock"
    listener = await asyncio.start_unix_server(handle, path)
    try:
        yield path
    finally:
        listener.close()
        for writer in writers:
            writer.close()


async def answer(request: dict[str, Any], wire: Wire) -> None:
    wire.send({"return": {"echo": request}, "id": request["id"]})


async def silence(_request: dict[str, Any], _wire: Wire) -> None:
    return


async def refuse(request: dict[str, Any], wire: Wire) -> None:
    wire.send({"error": {"class": "GenericError", "desc": "there is no such node"}, "id": request["id"]})


async def test_a_command_is_sent_and_its_value_returned(tmp_path: Path) -> None:
    async with server(tmp_path, answer) as path:
        session = await QmpSession.connect(path, name="vm")
        value = await session.execute("blockdev-del", {"node-name": "x"})
        assert (value["echo"]["execute"], value["echo"]["arguments"]) == ("blockdev-del", {"node-name": "x"})
        assert (await session.execute_oob("yank"))["echo"]["exec-oob"] == "yank"
        await session.close()
        assert session.closed.is_set()


async def test_a_refusal_carries_qemus_words(tmp_path: Path) -> None:
    async with server(tmp_path, refuse) as path:
        session = await QmpSession.connect(path, name="vm")
        with pytest.raises(
            QmpCommandError, match="QEMU refused blockdev-del: there is no such node"
        ) as caught:
            await session.execute("blockdev-del", {"node-name": "x"})
        assert isinstance(caught.value, RefusedError)
        assert (caught.value.code, caught.value.error_class) == ("qmp-refused", "GenericError")
        await session.close()


async def test_silence_times_out_and_the_session_lives_on(tmp_path: Path) -> None:
    async def slow_once(request: dict[str, Any], wire: Wire) -> None:
        if request["execute"] == "cont":
            await asyncio.sleep(0.1)  # the late answer arrives when nobody waits for it any more
        await answer(request, wire)

    async with server(tmp_path, slow_once) as path:
        session = await QmpSession.connect(path, name="vm")
        with pytest.raises(QmpTimeoutError, match=r"did not answer cont within 0\.05 s") as caught:
            await session.execute("cont", deadline_s=0.05)
        assert isinstance(caught.value, UnavailableError)
        assert caught.value.code == "qmp-timeout"
        assert (await session.execute("stop"))["echo"]["execute"] == "stop"
        assert not session.closed.is_set()
        await session.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"this is not json\r\n",
        b'["a", "list"]\r\n',
        b'{"return": {}, "id": "__qmp#00000"',
        b"\xff\xfe\r\n",
        b'{"a":' + b"[" * 100_000 + b"\r\n",
        b'{"a":' + b"9" * 10_000 + b"}\r\n",
        b'{"a":"' + b"x" * (11 << 20),
    ],
    ids=["text", "list", "cut off", "bytes", "deep", "a long number", "a long line"],
)
async def test_garbage_ends_the_session_and_nothing_else(tmp_path: Path, garbage: bytes) -> None:
    async def spit(_request: dict[str, Any], wire: Wire) -> None:
        wire.writer.write(garbage)
        await wire.writer.drain()
        wire.writer.close()

    async with server(tmp_path, spit) as path:
        session = await QmpSession.connect(path, name="vm")
        ended: list[str] = []
        session.on_closed = lambda: ended.append("ended")
        with pytest.raises(QmpClosedError, match="ended during query-status"):
            await session.execute("query-status")
        await asyncio.wait_for(session.closed.wait(), 30)
        assert ended == ["ended"]
        with pytest.raises(QmpClosedError, match="has ended"):
            await session.execute("query-status")
        await session.close()


async def test_an_answer_to_nobody_is_dropped(tmp_path: Path) -> None:
    async def doubled(request: dict[str, Any], wire: Wire) -> None:
        wire.send({"return": {}, "id": "stranger"})
        await answer(request, wire)

    async with server(tmp_path, doubled) as path:
        session = await QmpSession.connect(path, name="vm")
        assert (await session.execute("stop"))["echo"]["execute"] == "stop"
        await session.close()


async def test_a_malformed_answer_is_an_error_of_ours(tmp_path: Path) -> None:
    async def hollow(request: dict[str, Any], wire: Wire) -> None:
        wire.send({"id": request["id"]})

    async with server(tmp_path, hollow) as path:
        session = await QmpSession.connect(path, name="vm")
        with pytest.raises(QmpError):
            await session.execute("stop")
        await session.close()


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("query-status", {}),
        ("query-status", ["running"]),
        ("query-status", {"status": 1}),
        ("query-named-block-nodes", [{"node-name": "a"}, {"node-name": None}]),
        ("query-block-jobs", [{"device": "a", "offset": 1, "len": 1e999, "ready": True, "status": "x"}]),
        ("query-block-jobs", [{"device": "a", "offset": True, "len": 1, "ready": True, "status": "x"}]),
        ("query-migrate", {"ram": {"total": 2**70}}),
        ("query-chardev", [{"label": "a"}] * 10_001),
        ("x-query-ramblock", None),
    ],
)
async def test_an_answer_of_another_shape_is_an_error_of_that_command(
    tmp_path: Path, command: str, reply: object
) -> None:
    async def lie(request: dict[str, Any], wire: Wire) -> None:
        wire.send({"return": reply if request["execute"] == command else {}, "id": request["id"]})

    async with server(tmp_path, lie) as path:
        session = await QmpSession.connect(path, name="vm")
        with pytest.raises(QmpGarbledError, match=f"answered {command} with something else") as caught:
            await session.execute(command)
        assert isinstance(caught.value, UnavailableError) and caught.value.code == "qmp-garbled"
        await session.execute("stop")
        await session.close()


async def test_qemus_words_are_one_line_that_can_be_stored(tmp_path: Path) -> None:
    text = "no\n\ud800 \x1b\x9b\u202esuch\tnode " + "x" * 100_000

    async def talk(request: dict[str, Any], wire: Wire) -> None:
        wire.send({"event": "STOP", "data": {"reason": text}, "timestamp": {"seconds": 1, "microseconds": 0}})
        wire.send({"error": {"class": "GenericError", "desc": text}, "id": request["id"]})

    async with server(tmp_path, talk) as path:
        session = await QmpSession.connect(path, name="vm")
        heard: list[str] = []
        session.add_listener(lambda event, data, at_s: heard.append(data["reason"]))
        with pytest.raises(QmpCommandError) as caught:
            await session.execute("stop")
        assert heard[0].startswith("no such node xxx") and len(heard[0]) <= MAX_TEXT
        caught.value.problem.to_json()
        assert str(caught.value).startswith("QEMU refused stop: no such node xxx")
        assert len(str(caught.value)) < MAX_TEXT + 50
        await session.close()


async def test_events_reach_every_listener_with_a_time(tmp_path: Path) -> None:
    async def eventful(request: dict[str, Any], wire: Wire) -> None:
        wire.send({"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 0}})
        wire.send({"event": "RESET", "data": {"guest": True}, "timestamp": {"seconds": 1, "microseconds": 0}})
        await answer(request, wire)

    async with server(tmp_path, eventful) as path:
        session = await QmpSession.connect(path, name="vm")
        seen: list[tuple[str, dict[str, Any]]] = []
        got_both = asyncio.Event()

        def broken(*_: object) -> None:
            raise RuntimeError("this listener is wrong")

        def listen(event: str, data: dict[str, Any], at_s: float) -> None:
            assert at_s > 0
            seen.append((event, data))
            if len(seen) == 2:
                got_both.set()

        session.add_listener(broken)
        remove = session.add_listener(listen)
        await session.execute("stop")
        await asyncio.wait_for(got_both.wait(), 30)
        assert seen == [("STOP", {}), ("RESET", {"guest": True})]
        remove()
        remove()
        await session.execute("stop")
        assert len(seen) == 2
        await session.close()


@pytest.mark.parametrize(
    "greeting", [b"", b"SSH-2.0-OpenSSH\r\n", b'{"QMP": 3}\r\n'], ids=["none", "ssh", "wrong"]
)
async def test_what_does_not_greet_as_qemu_is_unreachable(tmp_path: Path, greeting: bytes) -> None:
    async with server(tmp_path, silence, greeting=greeting) as path:
        with pytest.raises(QmpUnreachableError) as caught:
            await QmpSession.connect(path, name="vm", deadline_s=0.2)
        assert caught.value.code == "qmp-unreachable"


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(QmpUnreachableError):
        await QmpSession.connect(tmp_path / "qmp.sock", name="vm")


async def test_a_qemu_that_is_starting_is_waited_for(tmp_path: Path) -> None:
    connecting = asyncio.create_task(QmpSession.connect(tmp_path / "qmp.sock", name="vm", is_starting=True))
    await asyncio.sleep(0)
    async with server(tmp_path, answer):
        session = await connecting
        await session.execute("stop")
        await session.close()
    with pytest.raises(QmpUnreachableError):
        await QmpSession.connect(tmp_path / "other.sock", name="vm", is_starting=True, deadline_s=0.05)


async def test_a_path_longer_than_a_socket_address_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.chdir(deep)
    async with server(Path(), answer) as path:  # relative, so that the server can bind it
        assert len(str(deep / path)) > 120
        session = await QmpSession.connect(deep / path, name="vm")
        await session.execute("stop")
        await session.close()


async def test_closing_does_not_wait_for_a_silent_qemu(tmp_path: Path) -> None:
    async with server(tmp_path, silence) as path:
        session = await QmpSession.connect(path, name="vm")
        waiting = asyncio.create_task(session.execute("stop", deadline_s=30))
        await asyncio.sleep(0)
        await asyncio.wait_for(session.close(), 30)
        with pytest.raises(QmpClosedError):
            await waiting
        await session.close()


async def test_a_socket_is_given_under_a_name(tmp_path: Path) -> None:
    """Two at once: each arrives with its own command."""
    taken: list[tuple[str, int]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "qmp.sock"))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        connection.sendall(json.dumps(GREETING).encode() + b"\r\n")
        descriptors: list[int] = []
        while len(taken) < 2:
            data, more, _, _ = socket.recv_fds(connection, 4096, 4)
            descriptors += more
            request = json.loads(data) if data.strip() else {}
            if request.get("execute") == "getfd":
                assert len(descriptors) == 1, "one at a time"
                taken.append((request["arguments"]["fdname"], descriptors.pop()))
            if request:
                connection.sendall(json.dumps({"return": {}, "id": request.get("id")}).encode() + b"\r\n")
        connection.close()

    serving = asyncio.create_task(asyncio.to_thread(serve))
    session = await QmpSession.connect(tmp_path / "qmp.sock", name="q")
    ours, theirs = zip(socket.socketpair(), socket.socketpair(), strict=True)
    await asyncio.gather(*(session.give(f"s{n}", sock) for n, sock in enumerate(theirs)))
    await serving
    for name, descriptor in taken:
        number = int(name.removeprefix("s"))
        with socket.socket(fileno=descriptor) as received:
            received.sendall(name.encode())
        assert ours[number].recv(10) == name.encode()
    await session.close()
    with pytest.raises(QmpClosedError):
        await session.give("s3", theirs[0])
    for sock in (*ours, *theirs, listener):
        sock.close()
