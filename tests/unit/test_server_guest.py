"""Commands of a container: the real API, the real client and command line, and a guest of a few lines."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from container_world import (
    SOON_S,
    World,
    asked,
    container_world,
    run,
    send_all,
)
from guest_support import Guest
from protection_world import endophyte

from hostagent.drivers.guest.frames import FrameType
from hostagent.supervisor.machine import is_container
from vdc.api.execution import ERRORS, INPUT, OUTPUT, WINDOW, ExecMessage, ExecOptions, command_text
from vdc.cli.execution import ESCAPE, ESCAPES, EXIT_LOST, EXIT_REFUSED
from vdc.model.errors import InvalidError, RefusedError, VdcError
from vdc.store import keys
from vdc.store.protocol import Put

pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with container_world(tmp_path) as made:
        yield made


# ---- exec


async def test_a_commands_output_errors_and_exit_code_arrive(
    world: World, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.send(FrameType.DATA, stream, b"out\n")
        await end.send(FrameType.ERRDATA, stream, b"err\n")
        await end.done(stream, exit_code=42)

    options = ExecOptions(env=("TOKEN=very-secret",), working_dir="/srv")
    async with world.guest(script):
        assert await run(world, "ls", "-l", "ä b", options=options, user="redis") == 42
    out, err = capfdbinary.readouterr()
    assert out.endswith(b"out\n") and err == b"err\n"
    assert world.asked == [
        {"op": "exec", "argv": ["ls", "-l", "ä b"], "user": "redis", "env": ["TOKEN=very-secret"],
         "working_dir": "/srv", "tty": False, "rows": 24, "columns": 80},
    ]  # fmt: skip
    entries = world.audited()
    assert ("endophyte_exec", 'command=["ls","-l","ä b"] user=redis', "ok") in entries
    assert "very-secret" not in str(entries)


async def test_input_goes_in_whole_and_its_end_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    got = bytearray()

    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        while (frame := await end.frame()).type is not FrameType.EOF:
            assert frame.type is FrameType.DATA
            got.extend(frame.payload)
            await end.credit(stream, len(frame.payload))
        await end.done(stream, exit_code=0)

    data = os.urandom(3 * WINDOW)
    (tmp_path / "input").write_bytes(data)
    with (tmp_path / "input").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        async with world.guest(script):
            assert await run(world, "cat", has_input=True) == 0
    assert got == data


async def test_much_output_is_not_kept_in_memory_on_its_way(
    world: World, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    total = 4 * WINDOW

    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await send_all(end, stream, b"y" * total)
        await end.done(stream, exit_code=0)

    async with world.guest(script):
        assert await run(world, "yes") == 0
    assert capfdbinary.readouterr().out.count(b"y") >= total


async def test_a_guest_that_goes_away_ends_it_with_one_line(
    world: World, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.send(FrameType.DATA, stream, b"begun")
        end.writer.close()

    async with world.guest(script):
        assert await run(world, "sleep", "99") == EXIT_LOST
    out, err = capfdbinary.readouterr()
    assert out.endswith(b"begun") and err.count(b"\n") == 1 and b"runs on another host" in err


async def test_what_the_guest_refuses_is_its_sentence(
    world: World, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.done(stream, error="no user nosuch")

    async with world.guest(script):
        assert await run(world, "id", user="nosuch") == EXIT_REFUSED
    assert b"web: no user nosuch" in capfdbinary.readouterr().err


async def test_a_guest_without_an_init_is_told_before_anything_begins(world: World) -> None:
    with pytest.raises(VdcError) as caught:
        await run(world, "ls")
    assert caught.value.code == "guest-silent"


async def test_other_guests_have_no_commands(world: World) -> None:
    host = world.api.context.host
    await host.store.commit([], [Put(keys.endophyte("web"), endophyte().to_json())])
    async with asyncio.timeout(SOON_S):
        while is_container(host.mirror.endophytes["web"].value):
            await asyncio.sleep(0.01)
    with pytest.raises(RefusedError) as caught:
        await run(world, "ls")
    assert caught.value.code == "no-container"


async def test_a_client_that_goes_away_ends_the_command(world: World) -> None:
    cancelled = asyncio.Event()

    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.expect(FrameType.CANCEL)
        cancelled.set()
        await end.done(stream, exit_code=137)

    async with world.guest(script):
        async with world.client.endophyte_exec("web", ["sleep", "99"]) as socket:
            await socket.send_str(ExecOptions().to_json())
            while not world.asked:
                await asyncio.sleep(0.01)
        await asyncio.wait_for(cancelled.wait(), SOON_S)


async def test_signals_and_sizes_reach_the_guest(world: World) -> None:
    orders: list[dict[str, Any]] = []

    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        for _ in range(2):
            orders.append(json.loads((await end.expect(FrameType.CONTROL)).payload))
        await end.done(stream, exit_code=130)

    async with world.guest(script), world.client.endophyte_exec("web", ["sh"]) as socket:
        await socket.send_str(ExecOptions(tty=True).to_json())
        await socket.send_str(ExecMessage(resize=(50, 132)).to_json())
        await socket.send_str(ExecMessage(signal="INT").to_json())
        async with asyncio.timeout(SOON_S):
            async for message in socket:
                result = ExecMessage.from_json(message.data).result
                assert result is not None and result.exit_code == 130
    assert orders == [{"resize": [50, 132]}, {"signal": "INT"}]


HARM: dict[str, Callable[[aiohttp.ClientWebSocketResponse], Awaitable[Any]]] = {
    "output": lambda socket: socket.send_bytes(OUTPUT + b"x"),
    "nothing": lambda socket: socket.send_bytes(b""),
    "a large message": lambda socket: socket.send_bytes(INPUT + b"x" * 40_000),
    "no JSON": lambda socket: socket.send_str("{"),
    "a field too many": lambda socket: socket.send_str('{"credit": 1, "more": 2}'),
    "a signal that is none": lambda socket: socket.send_str('{"signal": "; rm"}'),
}


@pytest.mark.parametrize("harm", HARM)
async def test_a_client_that_means_harm_is_cut_off(world: World, harm: str) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.expect(FrameType.CANCEL)
        await end.done(stream)

    async with world.guest(script), world.client.endophyte_exec("web", ["cat"]) as socket:
        await socket.send_str(ExecOptions().to_json())
        await HARM[harm](socket)
        message = await socket.receive(timeout=SOON_S)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.POLICY_VIOLATION)


async def test_more_input_than_was_allowed_cuts_the_client_off(world: World) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.expect(FrameType.CANCEL)

    async with world.guest(script), world.client.endophyte_exec("web", ["cat"]) as socket:
        await socket.send_str(ExecOptions().to_json())
        for _ in range(3 * WINDOW // 32_768):
            await socket.send_bytes(INPUT + b"x" * 32_768)
        message = await socket.receive(timeout=SOON_S)
        while message.type is aiohttp.WSMsgType.TEXT:
            message = await socket.receive(timeout=SOON_S)
        assert message.type is aiohttp.WSMsgType.CLOSE


async def test_input_of_nothing_is_not_kept(world: World) -> None:
    """It takes no credit, so nothing else would end it."""

    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        assert (await end.expect(FrameType.DATA)).payload == b"text"
        await end.done(stream, exit_code=0)

    async with world.guest(script), world.client.endophyte_exec("web", ["cat"]) as socket:
        await socket.send_str(ExecOptions().to_json())
        for _ in range(10):
            await socket.send_bytes(INPUT)
        await socket.send_bytes(INPUT + b"text")
        message = await socket.receive(timeout=SOON_S)
        assert ExecMessage.from_json(message.data).credit == 4


async def test_first_of_all_come_the_options(world: World) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.done(stream)

    async with world.guest(script), world.client.endophyte_exec("web", ["cat"]) as socket:
        await socket.send_bytes(ERRORS + b"x")
        message = await socket.receive(timeout=SOON_S)
        assert message.type is aiohttp.WSMsgType.CLOSE
    assert world.asked == []


NO_COMMANDS = [
    "", "command=ls", "command=[]", 'command=[""]', "command=[1]", "command=%5B%22a%5Cu0000%22%5D",
    "command=[%22id%22]&user=a%20b",
]  # fmt: skip


@pytest.mark.parametrize("query", NO_COMMANDS)
async def test_a_command_that_is_none_is_refused(world: World, query: str) -> None:
    assert await asked(world, f"web/exec?{query}") == (400, "query-invalid")


def test_a_command_that_is_too_long_is_told_before_it_is_sent() -> None:
    assert command_text(["sh", "-c", "x" * 5_000])
    with pytest.raises(InvalidError) as caught:
        command_text(["sh", "-c", "ä" * 2_000])
    assert caught.value.code == "command-too-long"


# ---- the terminal


async def test_a_terminals_keys_and_size_are_the_commands(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.openpty()
    got = bytearray()

    async def script(end: Guest, stream: int, request: dict[str, Any]) -> None:
        assert request["tty"]
        os.write(ours, b"\x03\x04")
        while len(got) < 2:
            got.extend((await end.expect(FrameType.DATA)).payload)
        await end.done(stream, exit_code=0)

    before = termios.tcgetattr(theirs)
    with os.fdopen(theirs, "rb", buffering=0) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        async with world.guest(script):
            assert await run(world, "sh", options=ExecOptions(tty=True), has_input=True) == 0
        assert termios.tcgetattr(theirs) == before
    os.close(ours)
    assert got == b"\x03\x04"


async def test_a_command_that_has_all_keys_can_be_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    heard = asyncio.Event()

    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        for _ in range(ESCAPES):
            await asyncio.sleep(0.05)  # a terminal gives keys that are pressed together as one piece
            os.write(ours, ESCAPE)
        await end.expect(FrameType.CANCEL)
        heard.set()
        await end.done(stream)

    with os.fdopen(theirs, "rb", buffering=0) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        async with world.guest(script):
            assert await run(world, "sh", options=ExecOptions(tty=True), has_input=True) == EXIT_LOST
            await asyncio.wait_for(heard.wait(), SOON_S)
    os.close(ours)
