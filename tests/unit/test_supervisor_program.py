"""What the primary's host sees of a container's program: checked, told where it changes, and ended in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from guest_support import Guest, scripted
from protection_world import endophyte, observed, pair

from hostagent.drivers.guest import GuestGoneError
from hostagent.drivers.guest.frames import FrameType
from hostagent.supervisor import program, shutdown
from hostagent.supervisor.guestline import GuestLine
from hostagent.supervisor.program import ProgramWatch, news, parse_status
from vdc.model.endophyte import CopyRole, CopyStage, Phase
from vdc.model.event import Severity
from vdc.model.guest import ProgramState, ProgramStatus
from vdc.protection.status import endophyte_status

SOON_S = 5.0
CONTAINER = {"type": "container", "dedicatedNodes": 2}
WELL = {
    "state": "running", "ready": True, "pid": 7, "restarts": 0, "exit_code": None, "reason": "",
    "started_at": "2026-11-23T14:00:00.123456789Z",
}  # fmt: skip
RUNNING = ProgramStatus.model_validate(WELL)


# ---- the guest's word


def test_a_status_is_taken_as_it_is() -> None:
    assert parse_status({"status": WELL}) == RUNNING


BAD: list[Any] = [
    None, "running", {}, {**WELL, "state": "unknown"}, {**WELL, "state": "happy"}, {**WELL, "pid": -1},
    {**WELL, "restarts": 2**40}, {**WELL, "exit_code": -1}, {**WELL, "ready": "yes"}, {**WELL, "reason": 7},
]  # fmt: skip


@pytest.mark.parametrize("status", BAD, ids=str)
def test_a_status_that_is_none_is_no_answer(status: Any) -> None:
    with pytest.raises(GuestGoneError):
        parse_status({"status": status})


def test_a_sentence_of_a_guest_is_cleaned_and_short() -> None:
    said = parse_status({"status": {**WELL, "reason": "\x1b[2J\n" + "x" * 5000, "started_at": "\x1b"}})
    assert said.reason.startswith("[2J x") and len(said.reason) <= 300 and said.started_at == ""


# ---- what is worth telling

WAITING = RUNNING.with_(
    state="waiting", ready=False, pid=0, exit_code=3, reason="it ended with the exit code 3"
)
TOLD = [
    (None, RUNNING, []),
    (RUNNING, RUNNING.with_(reason="x"), []),
    (RUNNING, WAITING, [("program-ended", "the program ended: it ended with the exit code 3", "Warning")]),
    (WAITING, WAITING.with_(reason="it is started again after 20 s"), []),
    (WAITING, RUNNING.with_(restarts=1, exit_code=3), [
        ("program-restarted", "the program was started again, once in all; before: exit code 3", "Warning"),
        ("program-ready", "the program is ready", "Normal")]),
    (RUNNING, RUNNING.with_(ready=False, reason="GET /: 500"), [
        ("program-not-ready", "the program is not ready any more: GET /: 500", "Warning")]),
    (RUNNING, RUNNING.with_(state="ended", ready=False, exit_code=0), [
        ("program-ended", "the program ended: exit code 0", "Normal")]),
    (RUNNING, RUNNING.with_(state="unknown", ready=False, reason="silent"), [
        ("program-silent", "the guest does not answer any more: silent", "Warning")]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "told"), TOLD)
def test_only_news_is_told(
    before: ProgramStatus | None, after: ProgramStatus, told: list[tuple[str, str, str]]
) -> None:
    assert [(one.code, one.sentence, one.severity.value) for one in news(before, after)] == told


def test_the_status_of_a_vm_says_what_is_not_well() -> None:
    the_pair = pair(secondary=None)

    def shown(status: ProgramStatus | None) -> Any:
        copy = observed("h1", CopyRole.PRIMARY, CopyStage.RUNNING, sentence="running on h1", program=status)
        one = endophyte(virtualComputer=CONTAINER)
        return endophyte_status(one, the_pair, [copy], frozenset({"h1"}))

    assert shown(RUNNING).sentence == "running on h1" and shown(RUNNING).program == RUNNING
    assert shown(RUNNING).phase is Phase.RUNNING
    ended = RUNNING.with_(state=ProgramState.ENDED, ready=False, exit_code=0)
    assert shown(ended).phase is Phase.RUNNING
    assert shown(ended).sentence == "running on h1; the program has ended: exit code 0"
    assert shown(WAITING).sentence.endswith("waits to be started again: it ended with the exit code 3")


# ---- asking


class Host:
    """What a watch uses of a host."""

    def __init__(self, **spec: Any) -> None:
        self.told: list[tuple[str, Severity]] = []
        self.now = 0.0
        self.endophyte = endophyte(virtualComputer=CONTAINER, **spec)
        self.mirror = SimpleNamespace(endophyte=lambda name: self.endophyte)
        self.clock = SimpleNamespace(boottime_s=lambda: self.now)
        self.name = "h1"

    async def tell(self, name: str, code: str, sentence: str, *, epoch: int, severity: Severity) -> None:
        self.told.append((code, severity))


def copy_of(host: Host, socket: Path, **more: Any) -> Any:
    state = SimpleNamespace(role=CopyRole.PRIMARY, stage=CopyStage.RUNNING, epoch=1)
    line = GuestLine(socket, "web")
    return SimpleNamespace(
        name="web",
        host=host,
        state=state,
        line=line,
        is_alive=True,
        program=None,
        folder=socket.parent,
        **more,
    )


@asynccontextmanager
async def answering(socket: Path, answers: list[Any]) -> AsyncIterator[list[Guest]]:
    """A guest that says one status after the other, and the last one for ever; None: silence."""

    async def script(end: Guest) -> None:
        await end.answer_reset()
        while True:
            stream, _ = await end.request()
            status = answers.pop(0) if len(answers) > 1 else answers[0]
            if status is not None:
                await end.done(stream, status=status)

    async with scripted(socket, script) as guests:
        yield guests


async def test_a_change_is_published_and_told(tmp_path: Path) -> None:
    host, woken = Host(), []
    copy = copy_of(host, tmp_path / "guest.sock")
    watch = ProgramWatch(copy, lambda: woken.append(1))
    async with answering(
        tmp_path / "guest.sock", [WELL, WELL, {**WELL, "state": "ended", "ready": False, "exit_code": 1}]
    ):
        for _ in range(3):
            await watch._look()
    assert copy.program is not None and copy.program.state == "ended"
    assert (len(woken), host.told) == (2, [("program-ended", Severity.WARNING)])
    await copy.line.close()


async def test_a_guest_that_changes_its_mind_all_the_time_fills_no_log(tmp_path: Path) -> None:
    host = Host()
    copy = copy_of(host, tmp_path / "guest.sock")
    watch = ProgramWatch(copy, lambda: None)
    for number in range(100):
        await watch._changed(RUNNING.with_(ready=number % 2 == 0))
    assert len(host.told) == program.TOLD_AT_ONCE
    host.now += 2 * program.TOLD_EVERY_S
    for number in range(10):
        await watch._changed(RUNNING.with_(ready=number % 2 == 0))
    assert len(host.told) == program.TOLD_AT_ONCE + 2


async def test_what_is_never_well_is_asked_less_often_after_a_while(tmp_path: Path) -> None:
    copy = copy_of(Host(), tmp_path / "guest.sock")
    watch = ProgramWatch(copy, lambda: None)
    pauses = {watch._pause_s() for _ in range(program.QUICK_LOOKS - 1)}
    assert pauses == {program.UNSETTLED_EVERY_S} and watch._pause_s() == program.EVERY_S
    copy.program = RUNNING
    assert watch._pause_s() == program.EVERY_S
    copy.program = WAITING
    assert watch._pause_s() == program.UNSETTLED_EVERY_S


async def test_silence_is_told_after_a_while_and_only_of_a_guest_that_has_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "ANSWER_S", 0.02)
    host = Host()
    copy = copy_of(host, tmp_path / "guest.sock")
    watch = ProgramWatch(copy, lambda: None)
    await watch._look()  # it boots
    host.now = 100.0
    await watch._look()
    assert copy.program is None
    async with answering(tmp_path / "guest.sock", [WELL, None]):
        await watch._look()
        await watch._look()
        assert copy.program == RUNNING
        host.now += 20.0
        await watch._look()
    assert copy.program.state == ProgramState.UNKNOWN and host.told == [("program-silent", Severity.WARNING)]
    await copy.line.close()


async def test_a_host_that_lost_the_role_asks_no_more(tmp_path: Path) -> None:
    host = Host()
    copy = copy_of(host, tmp_path / "guest.sock")
    watch = ProgramWatch(copy, lambda: None)
    async with answering(tmp_path / "guest.sock", [WELL]) as guests:
        await watch._look()
        copy.state.role = CopyRole.SECONDARY
        await watch._look()
        assert copy.program is None and copy.line._channel is None
        await watch._look()
        assert len(guests) == 1


async def test_what_is_no_container_is_left_alone(tmp_path: Path) -> None:
    host = Host()
    host.endophyte = endophyte()
    async with answering(tmp_path / "guest.sock", [WELL]) as guests:
        await ProgramWatch(copy_of(host, tmp_path / "guest.sock"), lambda: None)._look()
        assert guests == []


# ---- ending it


def stoppable(host: Host, socket: Path) -> Any:
    async def resume(_: Any) -> None:
        """It runs."""

    return copy_of(
        host, socket, powered_off=asyncio.Event(), session=lambda: None,
        process=SimpleNamespace(wait=asyncio.Event().wait), agent=SimpleNamespace(has_port=False),
    )  # fmt: skip


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resume(_: Any) -> None:
        """A paused guest would run now."""

    monkeypatch.setattr(shutdown.primary, "resume", resume)


@pytest.mark.usefixtures("runs")
async def test_a_container_is_stopped_by_its_init_with_the_manifests_seconds(tmp_path: Path) -> None:
    host = Host(process={"stopSeconds": 77})
    copy = stoppable(host, tmp_path / "guest.sock")
    asked: list[dict[str, Any]] = []

    async def script(end: Guest) -> None:
        await end.answer_reset()
        stream, request = await end.request()
        asked.append(request)
        await end.done(stream)
        copy.powered_off.set()

    async with scripted(tmp_path / "guest.sock", script), asyncio.timeout(SOON_S):
        await shutdown.ask_guest(copy)
    assert asked == [{"op": "stop", "seconds": 77}]
    await copy.line.close()


@pytest.mark.usefixtures("runs")
async def test_a_stop_that_takes_its_time_is_not_called_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "REPEAT_S", 0.01)
    host = Host(process={"stopSeconds": 1})
    copy = stoppable(host, tmp_path / "guest.sock")
    heard: list[FrameType] = []

    async def script(end: Guest) -> None:
        await end.answer_reset()
        await end.request()
        asyncio.get_running_loop().call_later(0.1, copy.powered_off.set)
        while True:
            heard.append((await end.frame()).type)

    async with scripted(tmp_path / "guest.sock", script), asyncio.timeout(SOON_S):
        await shutdown.ask_guest(copy)
        assert heard == []
    await copy.line.close()


@pytest.mark.usefixtures("runs")
async def test_a_guest_that_does_not_answer_is_asked_again_until_its_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "GRACE_S", 1)
    monkeypatch.setattr(shutdown, "SYNC_S", 1)
    monkeypatch.setattr(shutdown, "REPEAT_S", 0.05)
    copy = stoppable(Host(process={"stopSeconds": 0}), tmp_path / "guest.sock")
    async with asyncio.timeout(SOON_S):
        await shutdown.ask_guest(copy)
    assert not copy.powered_off.is_set()


@pytest.mark.usefixtures("runs")
async def test_whoever_has_no_patience_waits_for_nothing(tmp_path: Path) -> None:
    host = Host(process={"stopSeconds": 3600})
    host.endophyte = host.endophyte.with_(force_off=True)
    async with asyncio.timeout(SOON_S):
        await shutdown.ask_guest(stoppable(host, tmp_path / "guest.sock"))
