"""Commands and files of a container: the real API, the real client and command line, and a guest of a few lines."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import tarfile
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from guest_support import Guest, scripted
from protection_world import endophyte, observed
from server_support import Served, served

from hostagent.drivers.guest.frames import MOST_PAYLOAD, FrameType
from hostagent.supervisor.guestline import GuestLine
from hostagent.supervisor.machine import is_container
from vdc.api.client import ApiClient
from vdc.api.execution import ERRORS, INPUT, OUTPUT, WINDOW, ExecMessage, ExecOptions, command_text
from vdc.cli.copying import copy_in, copy_out, parse_place
from vdc.cli.execution import ESCAPE, ESCAPES, EXIT_LOST, EXIT_REFUSED, run_command
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import InvalidError, RefusedError, VdcError
from vdc.store import keys
from vdc.store.protocol import Put

SOON_S = 20.0
GIB = 1 << 30
CONTAINER = {"type": "container", "dedicatedNodes": 2}
Script = Callable[[Guest, int, dict[str, Any]], Awaitable[None]]
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")


class World:
    """A container that runs on the host whose API is asked."""

    def __init__(self, api: Served, client: ApiClient, folder: Path) -> None:
        self.api, self.client, self.folder = api, client, folder
        self.asked: list[dict[str, Any]] = []

    @asynccontextmanager
    async def guest(self, script: Script) -> AsyncIterator[None]:
        """Every request is served by the script."""

        async def serve(end: Guest) -> None:
            await end.answer_reset()
            while True:
                stream, request = await end.request()
                self.asked.append(request)
                await script(end, stream, request)

        async with scripted(self.folder / "guest.sock", serve):
            yield

    def audited(self) -> list[tuple[str, str, str]]:
        return [(one.what, one.detail, one.result) for one in self.api.context.audit.spool._ended]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with served(tmp_path) as api, ApiClient([f"unix://{api.socket}"]) as client:
        host = api.context.host
        line = GuestLine(tmp_path / "guest.sock", "web")
        copy = SimpleNamespace(
            name="web", host=host, line=line, is_alive=True, agent=SimpleNamespace(has_port=False),
            state=SimpleNamespace(role=CopyRole.PRIMARY, stage=CopyStage.RUNNING),
        )  # fmt: skip
        api.context.supervisors.find = lambda name: SimpleNamespace(copy=copy)  # type: ignore[method-assign,assignment,return-value]
        records = [
            Put(keys.endophyte("web"), endophyte(virtualComputer=CONTAINER).to_json()),
            Put(keys.observed("web", "h1"), observed("h1", CopyRole.PRIMARY, CopyStage.RUNNING).to_json()),
        ]
        await host.store.commit([], records)
        async with asyncio.timeout(SOON_S):
            while host.mirror.observed("web", "h1") is None:
                await asyncio.sleep(0.01)
        yield World(api, client, tmp_path)
        await line.close()


async def run(world: World, *command: str, options: ExecOptions | None = None, **more: Any) -> int:
    more = {"user": "", "has_input": False} | more
    async with asyncio.timeout(SOON_S):
        return await run_command(world.client, "web", command, options or ExecOptions(), **more)


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


async def asked(world: World, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{world.api.url}/v1/endophytes/{path}") as answer,
    ):
        return answer.status, (await answer.json())["code"]


@pytest.mark.parametrize("query", NO_COMMANDS)
async def test_a_command_that_is_none_is_refused(world: World, query: str) -> None:
    assert await asked(world, f"web/exec?{query}") == (400, "query-invalid")


def test_a_command_that_is_too_long_is_told_before_it_is_sent() -> None:
    assert command_text(["sh", "-c", "x" * 5_000])
    with pytest.raises(InvalidError) as caught:
        command_text(["sh", "-c", "ä" * 2_000])
    assert caught.value.code == "command-too-long"


# ---- files


def archive_of(**files: bytes) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return raw.getvalue()


async def send_all(end: Guest, stream: int, data: bytes) -> None:
    credit = WINDOW
    while data:
        while credit < MOST_PAYLOAD:
            credit += int.from_bytes((await end.expect(FrameType.CREDIT)).payload)
        await end.send(FrameType.DATA, stream, data[:MOST_PAYLOAD])
        data, credit = data[MOST_PAYLOAD:], credit - MOST_PAYLOAD


async def test_a_file_is_copied_out(world: World, tmp_path: Path) -> None:
    content = os.urandom(1 << 20)

    async def script(end: Guest, stream: int, request: dict[str, Any]) -> None:
        assert request == {"op": "read", "path": "/var/lib/dump"}
        await send_all(end, stream, archive_of(dump=content))
        await end.done(stream)

    (tmp_path / "here").mkdir()
    async with world.guest(script), asyncio.timeout(SOON_S):
        for target in (tmp_path / "here", tmp_path / "renamed"):
            source = parse_place("web:/var/lib/dump")
            done = await copy_out(world.client, source, target, most_bytes=GIB)  # type: ignore[arg-type]
            assert done.files == 1
    assert (tmp_path / "here/dump").read_bytes() == (tmp_path / "renamed").read_bytes() == content
    assert ("read_files", "path=/var/lib/dump", "ok") in world.audited()


async def test_what_is_not_there_is_the_guests_own_sentence(world: World, tmp_path: Path) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.done(stream, error="read /x: no such file or directory")

    async with world.guest(script):
        with pytest.raises(RefusedError, match="web: read /x: no such file"):
            await copy_out(world.client, parse_place("web:/x"), tmp_path / "x", most_bytes=GIB)  # type: ignore[arg-type]


@pytest.mark.parametrize("end_of_it", ["refusal", "gone"])
async def test_a_copy_that_breaks_off_is_no_copy(world: World, tmp_path: Path, end_of_it: str) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.send(FrameType.DATA, stream, archive_of(dump=b"x" * 5_000)[:3_000])
        if end_of_it == "gone":
            end.writer.close()
        else:
            await end.done(stream, error="read error on /dev/vda")

    async with world.guest(script), asyncio.timeout(SOON_S):
        with pytest.raises(VdcError) as caught:
            await copy_out(world.client, parse_place("web:/dump"), tmp_path / "x", most_bytes=GIB)  # type: ignore[arg-type]
    assert caught.value.code == "files-cut"


async def test_data_without_end_stops_at_the_limit(world: World, tmp_path: Path) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        member = tarfile.TarInfo("d")
        member.size = 1 << 40
        await send_all(end, stream, member.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
        await end.expect(FrameType.CANCEL)
        await end.done(stream)

    async with world.guest(script), asyncio.timeout(SOON_S):
        with pytest.raises(VdcError) as caught:
            await copy_out(world.client, parse_place("web:/d"), tmp_path / "x", most_bytes=GIB)  # type: ignore[arg-type]
    assert caught.value.code == "copy-too-large"


def folder_at(path: str) -> Script:
    """A guest with one folder, which keeps what it is sent."""

    async def script(end: Guest, stream: int, request: dict[str, Any]) -> None:
        if request["op"] == "read" and request["path"] != path:
            await end.done(stream, error=f"read {request['path']}: no such file or directory")
        elif request["op"] == "read":
            member = tarfile.TarInfo(Path(path).name)
            member.type = tarfile.DIRTYPE
            await end.send(FrameType.DATA, stream, member.tobuf())
            await end.expect(FrameType.CANCEL)
            await end.done(stream)
        else:
            got = b""
            while (frame := await end.frame()).type is not FrameType.EOF:
                got += frame.payload if frame.type is FrameType.DATA else b""
                await end.credit(stream, max(1, len(frame.payload)))
            with tarfile.open(fileobj=io.BytesIO(got)) as tar:
                request["names"], request["owners"] = tar.getnames(), {member.uid for member in tar}
            await end.done(stream, files=1)

    return script


@pytest.mark.parametrize(
    ("target", "folder", "name"),
    [("web:/tmp", "/tmp", "conf"), ("web:/tmp/", "/tmp", "conf"), ("web:/tmp/new", "/tmp", "new")],
)
async def test_a_file_is_copied_in_as_roots(
    world: World, tmp_path: Path, target: str, folder: str, name: str
) -> None:
    (tmp_path / "conf").write_text("x" * 100_000)
    async with world.guest(folder_at("/tmp")), asyncio.timeout(SOON_S):
        assert await copy_in(world.client, tmp_path / "conf", parse_place(target)) == 1  # type: ignore[arg-type]
    written = world.asked[-1]
    assert (written["op"], written["path"], written["names"], written["owners"]) == (
        "write",
        folder,
        [name],
        {0},
    )
    assert ("write_files", f"path={folder}", "ok") in world.audited()


async def test_what_cannot_be_read_here_is_told_and_nothing_is_written(world: World, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await copy_in(world.client, tmp_path / "nothing", parse_place("web:/tmp/"))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["", "relative", "/a%00b", "/" + "x" * 5_000])
async def test_a_path_that_is_none_is_refused(world: World, path: str) -> None:
    assert await asked(world, f"web/files?path={path}") == (400, "query-invalid")


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


# ---- by way of another host


@pytest.fixture
async def elsewhere(world: World, tmp_path: Path) -> AsyncIterator[ApiClient]:
    """A client of a host on which the container does not run, and which hands requests on to the one of `world`."""
    async with served(tmp_path / "other") as other, ApiClient([f"unix://{other.socket}"]) as client:
        context = other.context
        context.host.config = context.host.config.model_copy(update={"host": "h3"})
        context.peer = lambda name, acting_for=None: world.client  # type: ignore[method-assign]
        records = [
            Put(keys.endophyte("web"), endophyte(virtualComputer=CONTAINER).to_json()),
            Put(keys.observed("web", "h1"), observed("h1", CopyRole.PRIMARY, CopyStage.RUNNING).to_json()),
        ]
        await context.host.store.commit([], records)
        async with asyncio.timeout(SOON_S):
            while context.host.mirror.observed("web", "h1") is None:
                await asyncio.sleep(0.01)
        yield client


async def test_a_command_is_handed_on_as_it_is(
    world: World, elsewhere: ApiClient, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        size = 0
        while (frame := await end.frame()).type is not FrameType.EOF:
            size += len(frame.payload)
            await end.credit(stream, len(frame.payload))
        await end.send(FrameType.DATA, stream, str(size).encode())
        await end.send(FrameType.ERRDATA, stream, b"told")
        await end.done(stream, exit_code=9)

    (tmp_path / "input").write_bytes(bytes(2 * WINDOW))
    with (tmp_path / "input").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        async with world.guest(script), asyncio.timeout(SOON_S):
            code = await run_command(elsewhere, "web", ["wc"], ExecOptions(), user="", has_input=True)
    out, err = capfdbinary.readouterr()
    assert (code, err) == (9, b"told") and out.endswith(str(2 * WINDOW).encode())


async def test_files_are_handed_on_as_they_are(world: World, elsewhere: ApiClient, tmp_path: Path) -> None:
    content = os.urandom(400_000)

    async def script(end: Guest, stream: int, request: dict[str, Any]) -> None:
        if request["op"] == "write":
            await folder_at("/tmp")(end, stream, request)
            return
        await send_all(end, stream, archive_of(dump=content))
        await end.done(stream)

    async with world.guest(script), asyncio.timeout(SOON_S):
        source = parse_place("web:/dump")
        await copy_out(elsewhere, source, tmp_path / "dump", most_bytes=GIB)  # type: ignore[arg-type]
        assert (tmp_path / "dump").read_bytes() == content
        await copy_in(elsewhere, tmp_path / "dump", parse_place("web:/tmp/"))  # type: ignore[arg-type]
    assert world.asked[-1]["names"] == ["dump"]


async def test_a_copy_that_breaks_off_there_breaks_off_here(
    world: World, elsewhere: ApiClient, tmp_path: Path
) -> None:
    async def script(end: Guest, stream: int, _: dict[str, Any]) -> None:
        await end.send(FrameType.DATA, stream, archive_of(dump=b"x" * 5_000)[:3_000])
        end.writer.close()

    async with world.guest(script), asyncio.timeout(SOON_S):
        with pytest.raises(VdcError) as caught:
            await copy_out(elsewhere, parse_place("web:/dump"), tmp_path / "x", most_bytes=GIB)  # type: ignore[arg-type]
    assert caught.value.code == "files-cut"


@pytest.mark.parametrize("what", ["exec", "cp"])
async def test_a_refusal_there_is_the_same_refusal_here(
    world: World, elsewhere: ApiClient, tmp_path: Path, what: str
) -> None:
    with pytest.raises(VdcError) as caught:
        if what == "exec":
            await run_command(elsewhere, "web", ["ls"], ExecOptions(), user="", has_input=False)
        else:
            await copy_out(elsewhere, parse_place("web:/x"), tmp_path / "x", most_bytes=GIB)  # type: ignore[arg-type]
    assert caught.value.code == "guest-silent"
