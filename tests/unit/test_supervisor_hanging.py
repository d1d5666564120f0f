"""A QEMU that does not answer any more: when it is ended, and that it is left alone otherwise.

The process is a real one; its QMP is a session that never gets an answer.
"""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from protection_world import UID, endophyte, pair
from test_control_desired import World

from hostagent.drivers.process import spawn
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpCommandError, QmpTimeoutError
from hostagent.drivers.qemu.snapshots import SnapshotPlan
from hostagent.supervisor import shutdown
from hostagent.supervisor import supervisor as supervisor_module
from hostagent.supervisor.failpoints import Failpoints
from hostagent.supervisor.hanging import HUNG_S
from hostagent.supervisor.state import CopyState, PlanRecord
from hostagent.supervisor.supervisor import Supervisor
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import VdcError
from vdc.protection.decide import Decision
from vdc.protection.table import TABLE, Action, State
from vdc.store import keys

PLAN = PlanRecord(
    epoch=2, slot=0, disks=0, nics=0, primary_address="a", secondary_address="b", has_rewriter=False,
    checkpoint_ms=300,
)  # fmt: skip


class Silent:
    """A session whose commands get no answer, unless it `answers`; out of band it never does."""

    closed = SimpleNamespace(is_set=lambda: False)

    def __init__(self):
        self.answers = False

    async def execute(self, command, arguments=None, *, deadline_s=2.0):
        if not self.answers:
            raise QmpTimeoutError(f"QEMU web did not answer {command} within {deadline_s:g} s")
        return {"status": "running"}

    async def execute_oob(self, command, arguments=None, *, deadline_s=2.0):
        raise QmpTimeoutError(f"QEMU web did not answer {command} within {deadline_s:g} s")

    async def close(self):
        """Nothing is open."""


class Bench(World):
    """One host with a primary that runs alone, and whose QEMU hangs."""

    def __init__(self):
        super().__init__()
        self.now, self.told = 1000.0, []

    async def supervisor(self, tmp_path, stage, **wish):
        found = endophyte(protect=False, **wish)
        alone = pair(3, primary="h1", secondary=None)
        await self.put((keys.endophyte("web"), found.to_json()), (keys.pair("web"), alone.to_json()))

        async def tell(name, code, sentence, **_):
            self.told.append(code)

        quiet = SimpleNamespace(**{word: lambda *_, **__: None for word in ("info", "warning", "exception")})
        host = SimpleNamespace(
            name="h1", mirror=self.mirror, vms_dir=tmp_path, image_dir=tmp_path, pair_authorities=tmp_path,
            config=SimpleNamespace(runtime=None), limits=lambda budget: None, log=quiet, tell=tell,
            clock=SimpleNamespace(boottime_s=lambda: self.now, wall=lambda: ""),
            heartbeats=SimpleNamespace(tell_dead=lambda *_: None), store_silent_ms=lambda: 0.0,
            failpoints=Failpoints(),
            record=SimpleNamespace(accelerator=SimpleNamespace(name="tcg")),
        )  # fmt: skip
        (tmp_path / "web").mkdir()
        made = Supervisor(host, "web")
        made.copy.state = CopyState(
            name="web", uid=UID, role=CopyRole.PRIMARY, stage=stage, epoch=3, highest_epoch=3, plan=PLAN
        )
        made.copy._durable_epoch = 3
        made.copy.process = await spawn(
            ["sleep", "600"], pidfile=tmp_path / "pid", log_path=tmp_path / "log", tag=UID
        )
        made.copy.qmp = Silent()
        return made

    async def leave(self, supervisor, for_s=0.0):
        """What the table decides for it: once, and for so long whenever it is to be tried again."""
        row = next(row for row in TABLE if row.state is State.P_LEAVING and row.action is Action.LEAVE)
        end = self.now + for_s
        await supervisor._execute(Decision(action=row.action, row=row, sentence=""))
        while for_s and self.now < end and supervisor.copy.is_alive:
            self.now = min(end, max(self.now, supervisor._retry_at_s) + 0.5)
            await supervisor._execute(Decision(action=row.action, row=row, sentence=""))


@pytest.fixture
async def bench():
    return await Bench().fill()


@pytest.fixture
async def hung(bench, tmp_path):
    made = []

    async def make(stage=CopyStage.LEAVING, **wish):
        made.append(await bench.supervisor(tmp_path, stage, **wish))
        return made[-1]

    yield make
    for supervisor in made:
        if supervisor.copy.process is not None:
            await supervisor.copy.process.terminate(0)


@pytest.mark.parametrize("wish", [{}, {"run": "stopped"}, {"deleting": True}])
async def test_a_copy_that_cannot_leave_lockstep_is_ended_after_a_while(bench, hung, wish):
    supervisor = await hung(**wish)
    await bench.leave(supervisor, for_s=HUNG_S - 1)
    assert bench.told == []
    await bench.leave(supervisor, for_s=2)
    async with asyncio.timeout(5):
        await supervisor.copy.process.wait()
    assert bench.told == ["qemu-hung"]


async def test_one_that_answers_in_the_end_is_left_alone_unless_it_is_to_be_off(bench, hung):
    supervisor = await hung()
    await bench.leave(supervisor, for_s=HUNG_S - 1)
    supervisor.copy.qmp.answers = True  # its main loop; out of band, it does not
    await bench.leave(supervisor, for_s=2)
    await bench.put((keys.endophyte("web"), endophyte(protect=False, deleting=True).to_json()))
    await bench.leave(supervisor, for_s=HUNG_S - 3)
    assert bench.told == [], "it has the same time again"
    await bench.leave(supervisor, for_s=3)
    assert bench.told == ["qemu-hung"]
    async with asyncio.timeout(5):
        await supervisor.copy.process.wait()


async def test_a_guest_that_runs_alone_is_not_ended_because_qmp_is_silent(bench, hung):
    supervisor = await hung(CopyStage.RUNNING)
    error = QmpTimeoutError("no answer")
    await supervisor._failed(Action.ADOPT_EPOCH, error)
    bench.now += 2 * HUNG_S
    await supervisor._failed(Action.ADOPT_EPOCH, error)
    assert supervisor.copy.is_alive
    assert bench.told == []


@pytest.mark.parametrize("meanwhile", ["done", "refused", "something else", "nothing to do"])
async def test_what_was_not_silence_begins_a_new_count(bench, hung, meanwhile):
    supervisor = await hung()
    await bench.leave(supervisor, for_s=HUNG_S - 1)
    match meanwhile:
        case "done":
            supervisor._hang.forget()
        case "refused":
            await supervisor._failed(Action.LEAVE, QmpCommandError("stop", "GenericError", "not now"))
        case "something else":
            await supervisor._failed(Action.LEAVE, VdcError("the store does not answer"))
        case "nothing to do":
            bench.now += 3 * 24 * 3600.0
    await bench.leave(supervisor, for_s=HUNG_S - 1)
    assert supervisor.copy.is_alive
    assert bench.told == []


async def test_the_time_that_qmp_does_not_answer_counts_as_the_guests(monkeypatch):
    """Each press of the power button waits for QMP; the patience is of the clock, not of the number of looks."""

    async def press(copy):
        await asyncio.sleep(1.0)

    monkeypatch.setattr(shutdown, "_press_button", press)
    monkeypatch.setattr(shutdown, "GRACE_S", 2)
    monkeypatch.setattr(shutdown, "REPEAT_S", 0.001)
    copy = SimpleNamespace(
        name="web", powered_off=asyncio.Event(), agent=SimpleNamespace(has_port=False),
        process=SimpleNamespace(wait=asyncio.Event().wait),
        host=SimpleNamespace(mirror=SimpleNamespace(endophyte=lambda _: None)),
    )  # fmt: skip
    began = time.monotonic()
    await shutdown.ask_guest(copy)
    assert time.monotonic() - began < 3.5


class Draining(Silent):
    """As QEMU that waits for its secondary, which is dead, before it begins a snapshot."""

    def __init__(self):
        super().__init__()
        self.is_waiting = asyncio.Event()

    async def execute(self, command, arguments=None, *, deadline_s=2.0):
        if command == Command.TRANSACTION:
            self.is_waiting.set()
        if self.is_waiting.is_set():  # commands are answered in their order
            await asyncio.Event().wait()
        return []


@pytest.mark.parametrize("is_deletion", [False, True])
async def test_no_snapshot_keeps_what_is_urgent_waiting(bench, hung, monkeypatch, is_deletion):
    """The secondary is cut off by what waits here, and QEMU is freed by that alone."""
    acted = []

    async def act(_copy, decision):
        acted.append(decision.action)

    monkeypatch.setattr(supervisor_module, "act", act)
    supervisor = await hung(CopyStage.LOCKSTEP)
    supervisor.copy.qmp = Draining()
    fixing = supervisor.snapshots._begun(lambda: supervisor.snapshots._fix(SnapshotPlan(1), quiesce=False))
    async with asyncio.timeout(5):
        await supervisor.copy.qmp.is_waiting.wait()
        if is_deletion:
            row = next(row for row in TABLE if row.action is Action.SWEEP)
            await supervisor._execute(Decision(action=row.action, row=row, sentence=""))
        else:
            await bench.leave(supervisor)
    assert acted == [Action.SWEEP if is_deletion else Action.LEAVE]
    assert fixing.cancelled()
