"""The console: bytes both ways, Ctrl-], a connection that breaks, a terminal that is given back."""

from __future__ import annotations

import asyncio
import io
import os
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from vdc.cli import terminal
from vdc.cli.terminal import ESCAPE, Input, raw_terminal
from vdc.model.errors import UnavailableError


class Message:
    def __init__(self, data: bytes) -> None:
        self.type, self.data = terminal.WSMsgType.BINARY, data


class Socket:
    """One connection: gives what it is told to give, then stays open or breaks."""

    def __init__(self, *outputs: bytes, breaks: bool = False) -> None:
        self.outputs, self.breaks, self.sent = outputs, breaks, b""

    async def send_bytes(self, data: bytes) -> None:
        self.sent += data

    async def __aiter__(self) -> AsyncIterator[Message]:
        for data in self.outputs:
            yield Message(data)
        if not self.breaks:
            await asyncio.Event().wait()


class Api:
    """Gives one socket after the other; `None` stands for an agent that does not answer."""

    def __init__(self, *sockets: Socket | None) -> None:
        self.sockets = list(sockets)

    @asynccontextmanager
    async def endophyte_console(self, name: str) -> AsyncIterator[Socket]:
        socket = self.sockets.pop(0)
        if socket is None:
            raise UnavailableError("no agent answers")
        yield socket


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    raw = io.BytesIO()
    monkeypatch.setattr(terminal, "_show", raw.write)
    monkeypatch.setattr(terminal, "_RETRY_S", 0.01)
    monkeypatch.setattr(terminal, "_AFTER_END_S", 0.01)
    return raw


async def stay(api: Api, keys: asyncio.Queue[bytes | None], said: list[str] | None = None) -> None:
    say = said.append if said is not None else lambda _: None
    async with asyncio.timeout(30):
        await terminal._stay_joined(api, "web", keys, say)  # type: ignore[arg-type]


def typed(*chunks: bytes | None) -> asyncio.Queue[bytes | None]:
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    for chunk in chunks:
        queue.put_nowait(chunk)
    return queue


async def test_keys_go_to_the_guest_until_the_escape(output: io.BytesIO) -> None:
    socket = Socket(b"login: ")
    await stay(Api(socket), typed(b"ro", b"ot\r" + ESCAPE + b"never"))
    assert socket.sent == b"root\r"


async def test_what_the_guest_writes_is_shown(output: io.BytesIO) -> None:
    await stay(Api(Socket(b"\x00\xfflogin: ")), typed(b"x", None))
    assert output.getvalue() == b"\x00\xfflogin: "


class Slow(Socket):
    """A guest that goes on printing after the last key."""

    async def __aiter__(self) -> AsyncIterator[Message]:
        for data in self.outputs:
            await asyncio.sleep(0.05)
            yield Message(data)
        await asyncio.Event().wait()


async def test_a_pipe_that_has_ended_leaves_when_the_guest_is_silent(
    output: io.BytesIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "_AFTER_END_S", 0.2)
    await stay(Api(Slow(*[b"."] * 8)), typed(None))
    assert output.getvalue() == b"." * 8


async def test_a_pipe_that_has_ended_leaves_a_guest_that_is_never_silent(
    output: io.BytesIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "_AFTER_END_S", 0.2)
    monkeypatch.setattr(terminal, "_CHATTY_S", 0.3)
    await stay(Api(Slow(*[b"."] * 1000)), typed(None))
    assert output.getvalue()


async def test_a_broken_connection_is_made_again(output: io.BytesIO) -> None:
    second, said = Socket(b"after"), list[str]()
    keys = typed()

    async def leave_later() -> None:
        while b"after" not in output.getvalue():
            await asyncio.sleep(0.005)
        keys.put_nowait(b"x" + ESCAPE)

    leaving = asyncio.create_task(leave_later())
    await stay(Api(Socket(b"before ", breaks=True), None, None, second), keys, said)
    await leaving
    assert output.getvalue() == b"before after" and second.sent == b"x"
    assert said == ["connection lost, connecting again; Ctrl-] leaves", "connected again"]


async def test_the_escape_works_while_nothing_is_connected(output: io.BytesIO) -> None:
    keys = typed()
    waiting = asyncio.create_task(stay(Api(Socket(breaks=True), *[None] * 1000), keys))
    await asyncio.sleep(0.05)
    keys.put_nowait(ESCAPE)
    await waiting


async def test_a_guest_that_stays_away_ends_the_console(
    output: io.BytesIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "_GIVE_UP_S", 0.02)
    with pytest.raises(UnavailableError):
        await stay(Api(*[None] * 1000), typed())


async def test_a_pipe_is_read_to_its_end() -> None:
    read, write = os.pipe()
    os.write(write, b"hello")
    os.close(write)
    with Input(read).reading() as keys:
        assert [await keys.get(), await keys.get()] == [b"hello", None]
    os.close(read)


async def test_a_file_is_read_at_once(tmp_path: Any) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"text")
    with path.open("rb") as file, Input(file.fileno()).reading() as keys:
        assert [keys.get_nowait(), keys.get_nowait()] == [b"text", None]


def test_the_terminal_is_given_back_as_it_was() -> None:
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    with suppress(ZeroDivisionError), raw_terminal(slave) as is_terminal:
        assert is_terminal
        assert not termios.tcgetattr(slave)[3] & termios.ECHO
        raise ZeroDivisionError
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_what_is_no_terminal_is_left_alone() -> None:
    read, write = os.pipe()
    with raw_terminal(read) as is_terminal:
        assert not is_terminal
    os.close(read)
    os.close(write)
