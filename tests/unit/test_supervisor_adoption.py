"""What a restarted agent makes of what it remembers and of what QEMU says."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from hostagent.drivers.qemu.checkpoints import CheckpointMeter
from hostagent.drivers.qemu.inspect import LiveRole, LiveState
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.supervisor.adoption import _stage_now, _with_process
from hostagent.supervisor.state import CopyState
from hostagent.supervisor.trouble import DiskTrouble
from vdc.model.endophyte import CopyRole, CopyStage, MachineFacts

P, S = CopyRole.PRIMARY, CopyRole.SECONDARY
FACTS = MachineFacts(accelerator="tcg", cpu_model="qemu64", qemu_version="11.1.3", disk_sizes_bytes=(1,))


def live(status: str, *, colo_mode: str = "none") -> LiveState:
    nothing = frozenset[str]()
    return LiveState(
        uuid="", role=LiveRole.ALONE, status=status, migration="none", colo_mode=colo_mode, epochs=frozenset(),
        has_rewriter=False, is_settled=True, block_nodes=nothing, objects=nothing, chardevs=nothing, jobs=nothing,
    )  # fmt: skip


def copy(role: CopyRole, stage: CopyStage, *, is_machine_known: bool = True) -> SimpleNamespace:
    machine = FACTS if is_machine_known else None
    state = CopyState(name="web", uid="u", role=role, stage=stage, epoch=3, machine=machine)
    return SimpleNamespace(state=state, colo_ended=False, folder=Path("/absent"), trouble=DiskTrouble())


@pytest.mark.parametrize(
    ("stage", "found", "now"),
    [
        (
            CopyStage.PREPARING,
            live("running"),
            CopyStage.RUNNING,
        ),  # all of the start but its last note was done
        (CopyStage.PREPARING, live("prelaunch"), CopyStage.DEAD),
        (CopyStage.ENTERING, live("running"), CopyStage.LEAVING),
        (CopyStage.ENTERING, live("paused"), CopyStage.LEAVING),
        (CopyStage.ENTERING, live("colo", colo_mode="primary"), CopyStage.CHECKPOINTING),
        (CopyStage.RUNNING, live("paused"), CopyStage.PAUSED),  # else nobody would resume it
        (CopyStage.RUNNING, live("io-error"), CopyStage.RUNNING),
        (CopyStage.PAUSED, live("running"), CopyStage.RUNNING),  # else nobody would pause it
        (CopyStage.PAUSED, live("paused"), CopyStage.PAUSED),
        (CopyStage.LOCKSTEP, live("paused", colo_mode="primary"), CopyStage.LOCKSTEP),
        (CopyStage.PROMOTING, live("running"), CopyStage.PROMOTING),
        (CopyStage.ISOLATED, live("paused", colo_mode="primary"), CopyStage.ISOLATED),
    ],
)
def test_a_primary(stage: CopyStage, found: LiveState, now: CopyStage) -> None:
    assert _stage_now(copy(P, stage), found) is now


def test_a_start_whose_machine_was_not_written_down_is_done_again() -> None:
    assert _stage_now(copy(P, CopyStage.PREPARING, is_machine_known=False), live("running")) is CopyStage.DEAD


@pytest.mark.parametrize("stage", [CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP])
def test_a_secondary_that_its_primary_left_meanwhile(stage: CopyStage) -> None:
    left, held = copy(S, stage), copy(S, stage)
    assert _stage_now(left, live("running")) is stage
    assert _stage_now(held, live("colo", colo_mode="secondary")) is stage
    assert (left.colo_ended, held.colo_ended) == (True, False)


def test_a_secondary_that_waits_is_left_alone() -> None:
    waiting = copy(S, CopyStage.READY)
    assert _stage_now(waiting, live("inmigrate")) is CopyStage.READY
    assert not waiting.colo_ended


async def test_the_silence_of_checkpoints_counts_from_the_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a checkpoint that cannot come any more has to notice that it does not come."""

    def no_session() -> None:
        raise QmpError("QEMU does not answer", code="qmp-closed")

    monkeypatch.setattr("hostagent.supervisor.adoption.thaw_after_restart", lambda *_: None)
    taken = copy(P, CopyStage.LOCKSTEP)
    taken.is_alive, taken.is_unread = True, False
    taken.name, taken.folder, taken.process = "web", None, object()
    taken.meter, taken.session = CheckpointMeter(), no_session
    taken.host = SimpleNamespace(log=structlog.get_logger())
    assert taken.meter.quiet_for(time.monotonic() + 5) == 0
    await _with_process(taken)
    assert taken.meter.quiet_for(time.monotonic() + 5) > 4
