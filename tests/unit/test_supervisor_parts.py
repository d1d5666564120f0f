"""The parts of the supervisor that decide nothing: remembered state, which jobs continue, which machine is made."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from protection_world import UID, endophyte

from hostagent.drivers.disk.copy import DiskSource
from hostagent.supervisor.jobs import UNDISTURBED, is_same_work, leads_to
from hostagent.supervisor.machine import disk_sources, machine_spec
from hostagent.supervisor.state import CopyState, PlanRecord, load_state, save_state
from hostagent.supervisor.supervisor import Supervisor
from vdc.model.endophyte import CopyRole, CopyStage, MachineFacts
from vdc.model.errors import ConflictError
from vdc.model.image import Blob, Image, ImageKind
from vdc.protection.decide import Decision
from vdc.protection.events import Event
from vdc.protection.table import Action, Row, State

BLOB = Blob(digest="sha256:" + "a" * 64, size_bytes=1)
MINI = Image(kind=ImageKind.KERNEL, disk=BLOB, kernel=BLOB, initrd=BLOB, cmdline="console=ttyS0")
FACTS = MachineFacts(accelerator="tcg", cpu_model="qemu64", qemu_version="11.1.3", disk_sizes_bytes=(1,))


@pytest.mark.parametrize(
    ("running", "decided"),
    [
        (Action.PROMOTE, Action.TAKE_OVER),  # its own commit shows in the record before it is done
        (Action.GO_ALONE, Action.LEAVE),
        (Action.GO_ALONE, Action.ADOPT_EPOCH),
        (Action.ENTER, Action.ENTER),
    ],
)
def test_a_job_is_not_cut_short_by_the_pass_that_sees_its_own_commit(running, decided):
    assert is_same_work(decided, running)


def test_another_decision_ends_a_job():
    assert not is_same_work(Action.GO_ALONE, Action.ENTER)
    assert not is_same_work(Action.DISCARD, Action.PROMOTE)
    assert not is_same_work(Action.START, None)


def test_what_ends_processes_is_never_left_half_done():
    assert {Action.POWER_DOWN, Action.DISCARD, Action.SWEEP} <= UNDISTURBED


async def test_state_survives_the_agent(tmp_path):
    plan = PlanRecord(
        epoch=4,
        slot=2,
        disks=1,
        nics=1,
        primary_address="a",
        secondary_address="b",
        has_rewriter=True,
        checkpoint_ms=300,
    )
    state = CopyState(
        name="web", uid=UID, role=CopyRole.PRIMARY, stage=CopyStage.LOCKSTEP, epoch=4, plan=plan
    )
    await save_state(tmp_path, state)
    assert load_state(tmp_path) == state


def test_no_state_is_no_state(tmp_path):
    assert load_state(tmp_path) is None


def test_state_of_a_newer_agent_is_understood(tmp_path):
    text = CopyState(name="web", uid=UID).to_json()
    (tmp_path / "agent.json").write_text(text[:-1] + ',"field_of_tomorrow":1}')
    assert load_state(tmp_path) == CopyState(name="web", uid=UID)


def test_state_that_cannot_be_read_is_not_taken_for_none(tmp_path):
    (tmp_path / "agent.json").write_text('{"name": "we')
    with pytest.raises(ConflictError) as caught:
        load_state(tmp_path)
    assert caught.value.code == "state-unreadable"


def test_both_sides_of_a_pair_derive_the_same_plan():
    record = PlanRecord(
        epoch=4,
        slot=2,
        disks=1,
        nics=1,
        primary_address="a",
        secondary_address="b",
        has_rewriter=False,
        checkpoint_ms=300,
    )
    assert record.plan() == PlanRecord.from_json(record.to_json()).plan()


def test_the_guest_learns_its_name_and_boots_from_the_store():
    spec = machine_spec(endophyte(), MINI, FACTS, ())
    assert spec.boot.cmdline == "console=ttyS0 vdc.hostname=web"
    assert spec.boot.kernel == "/images/blobs/sha256/" + "a" * 64
    assert spec.nics[0].mac == "52:54:00:00:00:01"


def test_the_image_disk_comes_first_and_may_grow():
    grown = endophyte(disks=[{"name": "root", "size": "1GiB"}, {"name": "data", "size": "2GiB"}])
    root, data = disk_sources(grown, {grown.image_digest: MINI})
    assert (root.base, root.size_bytes) == ("blobs/sha256/" + "a" * 64, 2**30)
    assert (data.base, data.size_bytes) == (None, 2 * 2**30)
    assert disk_sources(endophyte(), {endophyte().image_digest: MINI})[0].size_bytes is None


def test_a_further_disk_begins_as_the_image_that_it_names():
    disks = [
        {"name": "root"},
        {"name": "data", "image": "me/data", "size": "2GiB"},
        {"name": "more", "size": 2**20},
    ]
    made = endophyte(disks=disks).with_(disk_image_digests=("", "sha256:" + "d" * 64, ""))
    data = Image(kind=ImageKind.DISK, disk=Blob(digest="sha256:" + "e" * 64, size_bytes=9), disk_format="raw")
    images = {made.image_digest: MINI, "sha256:" + "d" * 64: data}
    assert made.image_digests == set(images)
    assert disk_sources(made, images) == (
        DiskSource(None, "blobs/sha256/" + "a" * 64, "qcow2"),
        DiskSource(2 * 2**30, "blobs/sha256/" + "e" * 64, "raw"),
        DiskSource(2**20),
    )
    diskless = {**images, made.image_digest: MINI.with_(disk=None)}
    assert [source.base for source in disk_sources(made, diskless)] == [
        None,
        "blobs/sha256/" + "e" * 64,
        None,
    ]


@pytest.mark.parametrize(
    ("decided", "state", "is_cut_short"),
    [
        (Action.PAUSE, State.P_RUNNING, False),  # all that is left is to tell that it runs alone
        (Action.START, State.P_RUNNING, False),
        (Action.DISCARD, State.P_RUNNING, True),
        (Action.NOTE, State.P_RUNNING, True),
        (Action.PAUSE, State.P_LEAVING, True),
    ],
)
async def test_a_job_that_has_done_what_it_was_for_may_tell_it(monkeypatch, decided, state, is_cut_short):
    supervisor = Supervisor.__new__(Supervisor)
    supervisor.name, supervisor._failed_action, supervisor._retry_at_s = "web", None, 0.0
    supervisor.copy = SimpleNamespace(state=SimpleNamespace(stage=CopyStage.RUNNING), save=nothing)
    monkeypatch.setattr(Supervisor, "_execute", nothing)
    going_on = asyncio.create_task(asyncio.sleep(60))
    leaving = Row(State.P_LEAVING, Event.ALWAYS, Action.LEAVE, State.P_RUNNING, "")
    supervisor._job, supervisor._job_action = going_on, Action.LEAVE
    supervisor._job_leads_to = leads_to(Decision(Action.LEAVE, leaving, ""))
    row = Row(state, Event.ALWAYS, decided, State.S_FAILED, "")
    await supervisor._dispatch(Decision(decided, row, ""))
    assert going_on.cancelled() is is_cut_short
    going_on.cancel()


@pytest.mark.parametrize(("ends_s", "is_done"), [(0.02, True), (60, False)])
async def test_a_request_waits_for_a_job_that_is_about_to_end(monkeypatch, ends_s, is_done):
    monkeypatch.setattr("hostagent.supervisor.supervisor.BUSY_S", 0.2)
    supervisor = Supervisor.__new__(Supervisor)
    supervisor.name, supervisor.host = "web", SimpleNamespace(mirror=SimpleNamespace(pair=lambda _: None))
    supervisor.copy = SimpleNamespace(trouble=SimpleNamespace(here=False))
    supervisor._exclusive, supervisor._wakeup = asyncio.Lock(), asyncio.Event()
    supervisor._job = going_on = asyncio.create_task(asyncio.sleep(ends_s), name="web mark")

    async def compare():
        return "done"

    monkeypatch.setattr("hostagent.supervisor.supervisor.comparing", lambda *_, **__: compare)
    if is_done:
        assert await supervisor.verify(None, dry_run=True) == "done"
    else:
        with pytest.raises(ConflictError, match="busy under epoch 0: mark"):
            await supervisor.verify(None, dry_run=True)
    going_on.cancel()


async def test_the_second_of_two_promotions_looks_again_when_the_first_is_done(monkeypatch):
    supervisor = Supervisor.__new__(Supervisor)
    found = [SimpleNamespace(secondary="h2", epoch=2)]
    supervisor.name, supervisor.host = (
        "web",
        SimpleNamespace(name="h2", mirror=SimpleNamespace(pair=lambda _: found[0])),
    )

    async def first():
        await asyncio.sleep(0.02)
        found[0] = SimpleNamespace(secondary="h3", epoch=4)

    supervisor._job = asyncio.create_task(first(), name="web promotion")
    with pytest.raises(ConflictError, match="h2 is not the secondary of web under epoch 4") as caught:
        await supervisor.promote_forced("asked for")
    assert caught.value.code == "not-secondary"


async def nothing(*_, **__):
    """Stands for what is not looked at here."""


def test_a_disk_that_is_tried_again_keeps_nobody_waiting():
    row = Row(State.P_RUNNING, Event.DISK_STOPPED, Action.RETRY_DISK, State.P_RUNNING, "")
    assert not leads_to(Decision(Action.RETRY_DISK, row, ""))
