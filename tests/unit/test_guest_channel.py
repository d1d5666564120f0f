"""The agent's end of the guest channel: requests, credits and ends; and guests that mean harm."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from guest_support import Guest, scripted, talking_to

from hostagent.drivers.guest import Errors, GuestChannel, GuestGoneError, GuestRefusedError, Output
from hostagent.drivers.guest import channel as channel_module
from hostagent.drivers.guest.arrivals import MOST_APART, Arrivals
from hostagent.drivers.guest.frames import FIRST_CREDIT, HEADER, MOST_PAYLOAD, FrameType
from hostagent.supervisor.guestline import GuestLine

SOON_S = 3.0


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "guest.sock"


async def test_a_request_brings_output_errors_and_an_answer(socket: Path) -> None:
    async def guest(end: Guest) -> None:
        stream, request = await end.request()
        assert request == {"op": "exec", "argv": ["ls"]}
        await end.send(FrameType.DATA, stream, b"one")
        await end.send(FrameType.ERRDATA, stream, b"two")
        await end.send(FrameType.EOF, stream)
        await end.done(stream, exit_code=3)

    async with (
        talking_to(socket, guest) as channel,
        await channel.open({"op": "exec", "argv": ["ls"]}) as stream,
    ):
        assert [await stream.read() for _ in range(3)] == [Output(b"one"), Errors(b"two"), None]
        assert (await stream.answer())["exit_code"] == 3


async def test_what_an_earlier_agent_left_is_skipped(socket: Path) -> None:
    async def guest(end: Guest) -> None:
        frame = await end.frame()
        await end.raw(os.urandom(300_000) + b"VG\x01" + frame.encoded()[:20])
        await asyncio.sleep(0)
        await end.raw(frame.encoded())
        stream, _ = await end.request()
        await end.done(stream, frozen=2)

    async with scripted(socket, guest):
        channel = await GuestChannel.connect(socket, guest="web")
        assert (await channel.ask("freeze", deadline_s=SOON_S, seconds=5))["frozen"] == 2
        await channel.close()


async def test_input_waits_for_the_guests_credit(socket: Path) -> None:
    got = bytearray()
    full = asyncio.Event()
    go_on = asyncio.Event()

    async def guest(end: Guest) -> None:
        stream, _ = await end.request()
        while len(got) < FIRST_CREDIT:
            got.extend((await end.expect(FrameType.DATA)).payload)
        full.set()
        await go_on.wait()
        await end.credit(stream, 1000)
        got.extend((await end.expect(FrameType.DATA)).payload)
        await end.expect(FrameType.EOF)
        await end.done(stream, files=1)

    async with (
        talking_to(socket, guest) as channel,
        await channel.open({"op": "write", "path": "/"}) as stream,
    ):
        data = os.urandom(FIRST_CREDIT + 1000)
        writing = asyncio.create_task(stream.write(data))
        await asyncio.wait_for(full.wait(), SOON_S)
        assert len(got) == FIRST_CREDIT and not writing.done()
        go_on.set()
        await asyncio.wait_for(writing, SOON_S)
        await stream.end_input()
        assert (await stream.answer())["files"] == 1
    assert got == data


async def test_output_that_is_read_gives_credit_back(socket: Path) -> None:
    total = 3 * FIRST_CREDIT

    async def guest(end: Guest) -> None:
        stream, _ = await end.request()
        credit, sent = FIRST_CREDIT, 0
        while sent < total:
            while credit < MOST_PAYLOAD:
                credit += int.from_bytes((await end.expect(FrameType.CREDIT)).payload)
            await end.send(FrameType.DATA, stream, b"x" * MOST_PAYLOAD)
            credit, sent = credit - MOST_PAYLOAD, sent + MOST_PAYLOAD
        await end.done(stream)

    async with (
        talking_to(socket, guest) as channel,
        await channel.open({"op": "read", "path": "/"}) as stream,
    ):
        received = 0
        async with asyncio.timeout(SOON_S):
            while (piece := await stream.read()) is not None:
                received += len(piece.data)
    assert received == total


async def test_what_is_left_is_called_off_and_its_number_kept_until_the_guest_agrees(socket: Path) -> None:
    cancelled = asyncio.Event()

    async def guest(end: Guest) -> None:
        first, _ = await end.request()
        await end.expect(FrameType.CANCEL)
        await end.send(FrameType.DATA, first, b"still under way")
        await end.done(first, exit_code=137)
        cancelled.set()
        second, _ = await end.request()
        assert second != first
        await end.done(second)

    async with talking_to(socket, guest) as channel:
        async with await channel.open({"op": "exec"}):
            pass
        await asyncio.wait_for(cancelled.wait(), SOON_S)
        await channel.ask("status", deadline_s=SOON_S)
        assert not channel.closed.is_set()


async def test_whoever_goes_while_the_guest_takes_nothing_leaves_the_others_theirs(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is on its way: its number is kept until the guest has answered."""

    async def guest(end: Guest) -> None:
        first, _ = await end.request()
        late, _ = await end.request()
        assert (await end.expect(FrameType.CANCEL)).stream == late
        await end.done(late)
        await end.done(first, exit_code=0)

    async with talking_to(socket, guest) as channel, await channel.open({"op": "exec"}) as stream:
        with monkeypatch.context() as full:
            full.setattr(channel._writer, "drain", asyncio.Event().wait)
            opening = asyncio.create_task(channel.open({"op": "exec"}))
            async with asyncio.timeout(SOON_S):
                while len(channel._streams) < 2 or not all(one.is_open for one in channel._streams.values()):
                    await asyncio.sleep(0.001)
        opening.cancel()
        async with asyncio.timeout(SOON_S):
            assert (await stream.answer())["exit_code"] == 0
            await asyncio.wait([opening])
        assert opening.cancelled() and not channel.closed.is_set()


def test_output_in_tiny_pieces_takes_no_more_room_than_its_bytes() -> None:
    waiting = Arrivals()
    for i in range(FIRST_CREDIT):
        waiting.put(Errors if i % 2 else Output, b"%d" % (i % 10))
    assert len(waiting._pieces) <= MOST_APART + FIRST_CREDIT // MOST_PAYLOAD + 2
    got = {Output: b"", Errors: b""}
    while waiting:
        piece = waiting.take()
        got[type(piece)] += piece.data
    assert got[Output] == b"02468" * (FIRST_CREDIT // 10) + b"024"[: FIRST_CREDIT // 2 % 5]
    assert len(got[Errors]) == FIRST_CREDIT // 2


async def test_a_refusal_is_the_guests_own_sentence(socket: Path) -> None:
    async def guest(end: Guest) -> None:
        stream, _ = await end.request()
        await end.done(stream, error="no such file: /nowhere")

    async with talking_to(socket, guest) as channel:
        with pytest.raises(GuestRefusedError, match="web: no such file: /nowhere"):
            await channel.ask("read", deadline_s=SOON_S, path="/nowhere")


async def test_one_guest_is_not_asked_more_than_it_serves_at_once(socket: Path) -> None:
    async def guest(end: Guest) -> None:
        await end.expect(FrameType.RESET)

    async with talking_to(socket, guest) as channel:
        for _ in range(64):
            await channel.open({"op": "exec"})
        with pytest.raises(GuestRefusedError) as caught:
            await channel.open({"op": "exec"})
        assert caught.value.code == "guest-busy"


@pytest.mark.parametrize("is_late", [False, True])
async def test_reset_is_sent_again_where_the_guest_took_it_for_something_else(
    socket: Path, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    monkeypatch.setattr("hostagent.drivers.guest.channel.ASK_AGAIN_S", 0.01)

    async def guest(end: Guest) -> None:
        first = await end.expect(FrameType.RESET)
        # What comes too late is skipped, like the rest of a frame that an earlier agent did not read.
        before = first.encoded() if is_late else b"rest"
        while (frame := await end.frame()).type is FrameType.RESET:
            assert frame.payload != first.payload
            await end.raw(before + frame.encoded())
            before = b""
        assert frame.type is FrameType.OPEN
        await end.done(frame.stream)

    async with scripted(socket, guest):
        channel = await GuestChannel.connect(socket, guest="web", deadline_s=SOON_S)
        await channel.ask("status", deadline_s=SOON_S)
        await channel.close()


# ---- guests that mean harm


def frame(kind: int, stream: int, length: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(b"VG", kind, 0, stream, length) + payload


HOSTILE: dict[str, Callable[[Guest, int], Awaitable[None]]] = {
    "garbage": lambda end, _: end.raw(b"\xff" * 4096),
    "a giant length": lambda end, stream: end.raw(frame(3, stream, 0xFFFFFFFF)),
    "a stream that is not open": lambda end, stream: end.send(FrameType.DATA, stream + 1, b"x"),
    "a stream of the channel's own": lambda end, _: end.send(FrameType.DATA, 0, b"x"),
    "a type of the agent's": lambda end, stream: end.send(FrameType.OPEN, stream, b"{}"),
    "a type that is none": lambda end, stream: end.raw(frame(77, stream, 0)),
    "RESET without being asked": lambda end, _: end.send(FrameType.RESET, 0, b"0" * 16),
    "an answer that is no JSON": lambda end, stream: end.send(FrameType.DONE, stream, b"{'no'}"),
    "an answer that is no object": lambda end, stream: end.send(FrameType.DONE, stream, b"[]"),
    "an answer nested without end": lambda end, stream: end.send(FrameType.DONE, stream, b"[" * 60_000),
    "credit without end": lambda end, stream: end.credit(stream, 0xFFFFFFFF),
    "credit of nothing": lambda end, stream: end.credit(stream, 0),
    "data of nothing": lambda end, stream: end.send(FrameType.DATA, stream),
    "two ends": lambda end, stream: end.raw(frame(5, stream, 0) * 2),
    "an end with a payload": lambda end, stream: end.send(FrameType.EOF, stream, b"x"),
}


@pytest.mark.parametrize("harm", HOSTILE)
async def test_a_guest_that_breaks_the_rules_loses_the_connection(socket: Path, harm: str) -> None:
    async def guest(end: Guest) -> None:
        stream, _ = await end.request()
        await HOSTILE[harm](end, stream)

    async with talking_to(socket, guest) as channel, await channel.open({"op": "exec"}) as stream:
        async with asyncio.timeout(SOON_S):
            with pytest.raises(GuestGoneError, match="breaks the rules"):
                await stream.answer()
        assert channel.closed.is_set()


async def test_more_data_than_allowed_ends_the_connection_before_memory_does(socket: Path) -> None:
    async def guest(end: Guest) -> None:
        stream, _ = await end.request()
        while True:
            await end.send(FrameType.DATA, stream, b"x" * MOST_PAYLOAD)

    async with talking_to(socket, guest) as channel, await channel.open({"op": "read"}) as stream:
        await asyncio.wait_for(channel.closed.wait(), SOON_S)
        received = 0
        with pytest.raises(GuestGoneError, match="more than it was allowed"):
            while (piece := await stream.read()) is not None:
                received += len(piece.data)
        assert received == FIRST_CREDIT


async def test_a_guest_that_never_answers_runs_into_a_deadline(socket: Path) -> None:
    async def guest(end: Guest) -> None:
        await end.request()

    async with talking_to(socket, guest) as channel:
        with pytest.raises(GuestGoneError) as caught:
            await channel.ask("status", deadline_s=0.05)
        assert caught.value.code == "guest-silent"


@pytest.mark.parametrize(
    "begin", [b"", b"hello, I am not an init", b"VG" * 200], ids=["silence", "greeting", "half"]
)
async def test_a_guest_without_our_init_is_told_by_the_deadline(socket: Path, begin: bytes) -> None:
    async with scripted(socket, lambda end: end.raw(begin)):
        with pytest.raises(GuestGoneError) as caught:
            await GuestChannel.connect(socket, guest="web", deadline_s=0.1)
        assert caught.value.code == "guest-silent"


async def test_noise_before_the_answer_to_reset_has_an_end(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "MOST_SKIPPED", 1 << 20)

    async def guest(end: Guest) -> None:
        while True:
            await end.raw(b"x" * 65_536)

    async with scripted(socket, guest):
        with pytest.raises(GuestGoneError, match="in all that the guest sends"):
            await GuestChannel.connect(socket, guest="web", deadline_s=SOON_S)


async def test_a_deadline_is_one_also_where_the_guest_takes_nothing(socket: Path) -> None:
    async def script(end: Guest) -> None:
        await end.answer_reset()
        await asyncio.Event().wait()

    async with scripted(socket, script):
        channel = await GuestChannel.connect(socket, guest="web")
        filling = [await channel.open({"op": "write"}) for _ in range(4)]
        writing = [asyncio.create_task(stream.write(b"x" * FIRST_CREDIT)) for stream in filling]
        async with asyncio.timeout(SOON_S):
            with pytest.raises(GuestGoneError) as caught:
                await channel.ask("status", deadline_s=0.1)
        assert caught.value.code == "guest-silent"
        await channel.close()
        await asyncio.gather(*writing, return_exceptions=True)


async def test_a_guest_that_takes_nothing_ends_the_connection(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "WRITE_S", 0.1)

    async def script(end: Guest) -> None:
        await end.answer_reset()
        await asyncio.Event().wait()

    async with scripted(socket, script):
        channel = await GuestChannel.connect(socket, guest="web")
        streams = [await channel.open({"op": "write"}) for _ in range(4)]
        with pytest.raises(GuestGoneError, match="takes nothing"):
            for stream in streams:
                await stream.write(b"x" * FIRST_CREDIT)
        assert channel.closed.is_set()
        await channel.close()


async def test_an_end_of_the_guest_is_told_to_whoever_waits(socket: Path) -> None:
    async def guest(end: Guest) -> None:
        await end.request()
        end.writer.close()

    async with talking_to(socket, guest) as channel, await channel.open({"op": "exec"}) as stream:
        with pytest.raises(GuestGoneError, match="runs on another host"):
            await asyncio.wait_for(stream.read(), SOON_S)


async def test_nobody_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(GuestGoneError) as caught:
        await GuestChannel.connect(tmp_path / "nothing.sock", guest="web")
    assert caught.value.code == "guest-silent"
    (tmp_path / "link.sock").symlink_to("/run/dbus/system_bus_socket")
    with pytest.raises(GuestGoneError):
        await GuestChannel.connect(tmp_path / "link.sock", guest="web")


# ---- one line for everybody


async def test_all_share_one_connection_and_a_broken_one_is_made_anew(socket: Path) -> None:
    async def guest(end: Guest) -> None:
        await end.answer_reset()
        while True:
            stream, request = await end.request()
            if request["op"] == "die":
                end.writer.close()
                return
            await end.done(stream)

    line = GuestLine(socket, "web")
    async with scripted(socket, guest) as guests:
        await asyncio.gather(*(line.ask("status", deadline_s=SOON_S) for _ in range(5)))
        assert len(guests) == 1
        with pytest.raises(GuestGoneError):
            await line.ask("die", deadline_s=SOON_S)
        await line.ask("status", deadline_s=SOON_S)
        assert len(guests) == 2
        await line.close()
        await line.close()
