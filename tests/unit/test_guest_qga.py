"""QEMU's guest agent against one that is played: on a real socket, by the protocol, and against it."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from qga_support import Server, played, said, serving

from hostagent.drivers.guest import qgareplies as replies
from hostagent.drivers.guest.agent import GuestCommand
from hostagent.drivers.guest.errors import GuestGoneError, GuestRefusedError
from hostagent.drivers.guest.qga import QemuGuestAgent
from hostagent.supervisor.guestagent import ask_status

INTERFACES = [
    {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1"}], "hardware-address": "00:00:00:00:00:00"},
    {
        "name": "eth0",
        "hardware-address": "52:54:00:AA:00:01",
        "ip-addresses": [{"ip-address": "10.77.0.10", "prefix": 24}, {"ip-address": "fe80::1%eth0"}],
        "statistics": {"rx-bytes": 1},
    },
]


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "qga.sock"


async def test_it_answers_and_is_asked_nothing_else(socket: Path) -> None:
    async with played(socket, lambda _: said({})) as (agent, asked):
        await agent.ping()
        await agent.ping()
    assert asked == [{"execute": "guest-ping"}] * 2


async def test_interfaces_are_those_that_others_can_reach(socket: Path) -> None:
    async with played(socket, lambda _: said(INTERFACES)) as (agent, _):
        (only,) = await agent.interfaces()
    assert (only.name, only.mac) == ("eth0", "52:54:00:aa:00:01")
    assert only.addresses == (IPv4Address("10.77.0.10"), IPv6Address("fe80::1"))


@pytest.mark.parametrize(
    "before",
    [
        b'{"return": "half of an answer that nobody',
        b'{"return": {}}\n{"return": 5}\n',
        b'\xff{"return": 17}\n\xff{"return"',
        b"\xff[[[[\n" + b"\xff" * 50,
        b"x" * 300_000,
    ],
)
async def test_what_an_earlier_request_left_unread_is_thrown_away(socket: Path, before: bytes) -> None:
    async with played(socket, lambda _: said(INTERFACES), before=before) as (agent, _):
        assert len(await agent.interfaces()) == 1


async def test_a_program_runs_to_its_end(socket: Path) -> None:
    polled = iter((False, False, True))

    def answer(request: dict[str, Any]) -> bytes:
        if request["execute"] == "guest-exec":
            return said({"pid": 7})
        if not next(polled):
            return said({"exited": False})
        outs = {"out-data": base64.b64encode(b"hello\n").decode(), "err-data": "", "out-truncated": True}
        return said({"exited": True, "exitcode": 3, **outs})

    async with played(socket, answer) as (agent, asked):
        command = GuestCommand(argv=("cat", "-n"), env=("A=1",), stdin=b"\x00in")
        result = await agent.execute(command, deadline_s=5)
    assert (result.exit_code, result.stdout, result.stderr, result.is_cut) == (3, b"hello\n", b"", True)
    arguments = {"path": "cat", "arg": ["-n"], "env": ["A=1"], "input-data": "AGlu", "capture-output": True}
    assert asked[0] == {"execute": "guest-exec", "arguments": arguments}
    assert [one["execute"] for one in asked[1:]] == ["guest-exec-status"] * 3


async def test_a_signal_is_told_as_a_shell_does(socket: Path) -> None:
    answers = {"guest-exec": said({"pid": 7}), "guest-exec-status": said({"exited": True, "signal": 9})}
    async with played(socket, lambda request: answers[request["execute"]]) as (agent, _):
        assert (await agent.execute(GuestCommand(argv=("sleep",)), deadline_s=5)).exit_code == 137


async def test_a_program_that_does_not_end_is_left_alone_in_time(socket: Path) -> None:
    answers = {"guest-exec": said({"pid": 7}), "guest-exec-status": said({"exited": False})}
    async with played(socket, lambda request: answers[request["execute"]]) as (agent, _):
        with pytest.raises(GuestGoneError, match="process 7") as caught:
            await agent.execute(GuestCommand(argv=("sleep", "9")), deadline_s=0.1)
    assert caught.value.code == "guest-exec-late"


async def test_file_systems_are_counted(socket: Path) -> None:
    async with played(socket, lambda _: said(2)) as (agent, asked):
        assert (await agent.freeze(), await agent.thaw()) == (2, 2)
    assert [one["execute"] for one in asked] == ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]


async def test_a_shutdown_waits_for_no_answer(socket: Path) -> None:
    received = asyncio.Event()

    def answer(request: dict[str, Any]) -> None:
        assert request == {"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}}
        received.set()

    async with played(socket, answer) as (agent, _):
        await agent.shut_down()
        async with asyncio.timeout(30):
            await received.wait()


async def test_a_no_is_repeated_in_its_own_words_and_no_more(socket: Path) -> None:
    refusal = {"class": "CommandNotFound", "desc": "it is \x1b[31mdisabled" + "!" * 999}
    async with played(socket, lambda _: json.dumps({"error": refusal}).encode() + b"\n") as (agent, _):
        with pytest.raises(
            GuestRefusedError, match=r"refused network-get-interfaces: it is \[31mdisabled"
        ) as caught:
            await agent.interfaces()
        assert len(str(caught.value)) < 300
        assert (await ask_status(agent)).is_answering


@pytest.mark.parametrize(
    "answer",
    [
        b"no json\n",
        b"[" * 100_000 + b"\n",
        b"[]\n",
        b"{}\n",
        said({"name": "eth0"}),
        said([{"name": "e" * 65}]),
        said([{"name": "eth0", "hardware-address": "nonsense"}]),
        said([{"name": "eth0", "ip-addresses": [{"ip-address": "10.77.0.999"}]}]),
        said([{"name": "eth0", "ip-addresses": [{"ip-address": "10.0.0.1"}] * 65}]),
        b"x" * (2 << 20) + b"\n",
        b"\xff\xfe\n",
    ],
)
async def test_nonsense_is_told_and_believed_by_nobody(socket: Path, answer: bytes) -> None:
    async with played(socket, lambda _: answer) as (agent, _):
        with pytest.raises((GuestGoneError, GuestRefusedError)):
            await agent.interfaces()


async def test_no_objects_are_made_of_an_answer_that_would_be_millions(socket: Path) -> None:
    status = {"exited": True, "exitcode": 0, "out-data": "", "more": [{}] * 1_000_000}
    answers = {"guest-exec": said({"pid": 7}), "guest-exec-status": said(status)}
    async with played(socket, lambda request: answers[request["execute"]]) as (agent, _):
        with pytest.raises(GuestGoneError, match="too many values"):
            await agent.execute(GuestCommand(argv=("ls",)), deadline_s=20)


@pytest.mark.parametrize(
    "status",
    [
        {"exited": True},
        {"exited": True, "exitcode": 0, "out-data": "%%%"},
        {"exited": True, "exitcode": 2**40},
        {"exited": True, "signal": -1},
        {"exited": "perhaps"},
        {},
    ],
)
async def test_a_nonsensical_end_of_a_program_is_none(socket: Path, status: dict[str, object]) -> None:
    answers = {"guest-exec": said({"pid": 7}), "guest-exec-status": said(status)}
    async with played(socket, lambda request: answers[request["execute"]]) as (agent, _):
        with pytest.raises(GuestGoneError) as caught:
            await agent.execute(GuestCommand(argv=("true",)), deadline_s=2)
    assert caught.value.code == "guest-agent-nonsense"


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        pass


async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"\xff" * 65536)
        await writer.drain()
        await asyncio.sleep(0)


async def gone(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize("who", [silent, endless, gone])
async def test_where_nobody_answers_that_is_said_in_time(socket: Path, who: Server) -> None:
    async with serving(socket, who):
        agent = QemuGuestAgent(socket, answer_s=0.2)
        with pytest.raises(GuestGoneError) as caught:
            await agent.ping()
        assert caught.value.code == ("guest-agent-nonsense" if who is endless else "guest-agent-silent")
        assert not (await ask_status(agent)).is_answering


async def test_answers_to_others_without_end_hold_nobody_up(socket: Path) -> None:
    """Two bytes each: looking at them all would take the whole agent seconds."""

    async def others(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"\xff\n" * 30_000)
            await writer.drain()

    async with serving(socket, others):
        with pytest.raises(GuestGoneError) as caught:
            await QemuGuestAgent(socket, answer_s=1.0).ping()
    assert caught.value.code == "guest-agent-nonsense"


async def test_long_output_is_read_beside_everything_else(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, threads = base64.b64encode(b"x" * 3_000_001).decode(), set()
    ended = replies.ended

    def spy(value: Any) -> Any:
        threads.add(threading.current_thread())
        return ended(value)

    monkeypatch.setattr(replies, "ended", spy)

    def answer(request: dict[str, Any]) -> bytes:
        if request["execute"] == "guest-exec":
            return said({"pid": 7})
        return said({"exited": True, "exitcode": 0, "out-data": out})

    async with played(socket, answer) as (agent, _):
        done = await agent.execute(GuestCommand(argv=("cat",)), deadline_s=5)
    assert done.stdout == b"x" * 3_000_001
    assert threads.isdisjoint({threading.main_thread()})


@pytest.mark.parametrize(("ask", "kib"), [("ping", 65), ("thaw", 65), ("interfaces", 1025)])
async def test_an_answer_is_no_longer_than_such_a_one_may_be(socket: Path, ask: str, kib: int) -> None:
    async with played(socket, lambda _: said("x" * (kib << 10))) as (agent, _):
        with pytest.raises(GuestGoneError, match="more than"):
            await getattr(agent, ask)()


async def test_no_port_and_a_link_in_its_place_are_the_same(socket: Path, tmp_path: Path) -> None:
    agent = QemuGuestAgent(socket)
    with pytest.raises(GuestGoneError):
        await agent.ping()
    socket.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GuestGoneError):
        await agent.ping()


async def test_too_much_input_is_refused_before_anything_is_sent(socket: Path) -> None:
    async with played(socket, lambda _: None) as (agent, asked):
        with pytest.raises(GuestRefusedError):
            await agent.execute(GuestCommand(argv=("cat",), stdin=bytes(2 << 20)), deadline_s=1)
    assert not asked
