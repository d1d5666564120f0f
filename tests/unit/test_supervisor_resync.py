"""When a former secondary's disks are kept, used, and given up: any doubt makes a full copy."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from protection_world import UID, endophyte, observed, pair
from test_control_desired import World

from hostagent.drivers.disk.copy import CopyRecord, DiskSource
from hostagent.drivers.disk.copy import CopyState as DiskState
from hostagent.drivers.process.cgroup import Groups
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.supervisor import primary, resync
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.failpoints import Failpoints
from hostagent.supervisor.state import CopyState, PlanRecord
from vdc.model.endophyte import CopyRole, CopyStage, MachineFacts
from vdc.model.errors import UnavailableError
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.pair import OlderCopy, SyncState
from vdc.store import keys

OLDER = OlderCopy(host="h2", epoch=2)
NAME = OLDER.record_name
FACTS = MachineFacts(
    accelerator="tcg", cpu_model="qemu64", qemu_version="11.1.3", disk_sizes_bytes=(8,), disk_bases=("b/abc",)
)
PLAN = PlanRecord(
    epoch=2, slot=0, disks=1, nics=1, primary_address="a", secondary_address="b", has_rewriter=False,
    checkpoint_ms=300,
)  # fmt: skip
P, S = CopyRole.PRIMARY, CopyRole.SECONDARY


async def _silent(*_ifnames):
    """No tap is here."""


class Session:
    """QEMU with one image and its bitmaps."""

    def __init__(self, copy=None):
        self.bitmaps, self.said, self.copy = [], [], copy

    async def execute(self, command, arguments=None, *, deadline_s=2):
        self.said.append(str(command))
        match str(command):
            case "query-named-block-nodes":
                return [{"node-name": "img0", "dirty-bitmaps": list(self.bitmaps)}]
            case "block-dirty-bitmap-add":
                self.bitmaps.append({"name": arguments["name"], "recording": True})
                asyncio.get_running_loop().call_later(0.01, self.checkpoints, 2)
            case "block-dirty-bitmap-remove":
                self.bitmaps[:] = [one for one in self.bitmaps if one["name"] != arguments["name"]]
        return {}

    def checkpoints(self, count):
        for number in range(count if self.copy else 0):
            self.copy.meter.on_event("STOP", {}, time.monotonic() - 0.02)
            self.copy.meter.on_event("RESUME", {}, time.monotonic() + number / 1000)


class Bench(World):
    """One host's copy of `web`, with a mirror of real records."""

    async def copy(self, tmp_path, me, *records, role=None, stage=CopyStage.ABSENT, uid="", **state):
        await self.put(
            (keys.endophyte("web"), endophyte().to_json()),
            *((keys.observed("web", record.host), record.to_json()) for record in records),
        )
        host = SimpleNamespace(
            name=me, mirror=self.mirror, vms_dir=tmp_path, image_dir=tmp_path, pair_authorities=tmp_path / "pairs",
            config=SimpleNamespace(runtime=None, resync_mbit=8),
            log=SimpleNamespace(info=lambda *_, **__: None), heartbeats=SimpleNamespace(),
            overlay=SimpleNamespace(go_silent=_silent), failpoints=Failpoints(),
            clock=SimpleNamespace(wall=lambda: ""), groups=Groups(),
            guests=SimpleNamespace(own=lambda name, uid: (tmp_path / name / "guest").mkdir(exist_ok=True)),
        )  # fmt: skip
        (tmp_path / "web").mkdir(exist_ok=True)
        copy = Copy(host, "web", lambda: None)
        copy.state = CopyState(name="web", uid=uid, role=role, stage=stage, epoch=2, plan=PLAN, **state)
        copy.process = SimpleNamespace(is_alive=lambda: True, pid=1)
        copy.qmp = Session(copy)
        copy.meter.restart(time.monotonic())
        return copy

    async def pair_is(self, **changes):
        alone = pair(3, secondary=None).with_(**{"older": (OLDER,), **changes})
        await self.put((keys.pair("web"), alone.to_json()))
        return alone


@pytest.fixture
async def bench():
    return await Bench().fill()


def older_disks(epoch=2, uid=UID):
    return CopyRecord(uid=uid, epoch=epoch, state=DiskState.OLDER, heads=("parent0.qcow2",))


async def test_disks_are_kept_as_long_as_record_and_primary_name_them(bench, tmp_path):
    copy = await bench.copy(tmp_path, "h2")
    await bench.pair_is()
    assert not resync.is_kept(copy)  # there are none
    copy.older = older_disks()
    assert resync.is_kept(copy)
    running = observed("h1", P, CopyStage.RUNNING, epoch=3, older=(NAME,))
    await bench.put((keys.observed("web", "h1"), running.to_json()))
    assert resync.is_kept(copy)
    await bench.put((keys.observed("web", "h1"), running.with_(stage="leaving", older=()).to_json()))
    assert resync.is_kept(copy)  # it is about to say so
    await bench.put((keys.observed("web", "h1"), running.with_(older=()).to_json()))
    assert not resync.is_kept(copy)  # another QEMU, which knows nothing


@pytest.mark.parametrize(
    "changes",
    [{"older": ()}, {"older": (OlderCopy(host="h2", epoch=1),)}, {"older": (OlderCopy(host="h3", epoch=2),)}],
)
async def test_disks_that_the_record_does_not_name_are_swept(bench, tmp_path, changes):
    copy = await bench.copy(tmp_path, "h2")
    await bench.pair_is(**changes)
    copy.older = older_disks()
    assert not resync.is_kept(copy)


async def test_disks_of_another_or_deleted_vm_are_swept_and_so_they_are_when_room_is_short(
    bench, tmp_path, monkeypatch
):
    copy = await bench.copy(tmp_path, "h2")
    await bench.pair_is()
    copy.older = older_disks(uid="another")
    assert not resync.is_kept(copy)
    copy.older = older_disks()
    monkeypatch.setattr(resync.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    assert not resync.is_kept(copy)
    monkeypatch.undo()
    assert resync.is_kept(copy)
    await bench.put((keys.endophyte("web"), endophyte(deleting=True).to_json()))
    assert not resync.is_kept(copy)


async def test_the_primary_records_and_waits_for_a_whole_checkpoint(bench, tmp_path):
    copy = await bench.copy(tmp_path, "h1", role=P, stage=CopyStage.LOCKSTEP, uid=UID)
    assert await resync.begin_record(copy, endophyte(), pair())
    assert copy.state.older == (NAME,)


async def test_without_a_checkpoint_nothing_is_kept(bench, tmp_path, monkeypatch):
    copy = await bench.copy(tmp_path, "h1", role=P, stage=CopyStage.LOCKSTEP, uid=UID)
    monkeypatch.setattr(Session, "checkpoints", lambda *_: None)
    monkeypatch.setattr(copy, "quiet_ms", lambda: 5_000.0)
    assert not await resync.begin_record(copy, endophyte(), pair())
    assert (copy.state.older, copy.qmp.bitmaps) == ((), [])


@pytest.mark.parametrize("node", ["nbd0-e2", "img0"])
async def test_a_write_that_either_disk_refused_lets_nothing_be_kept(bench, tmp_path, node):
    copy = await bench.copy(tmp_path, "h1", role=P, stage=CopyStage.LOCKSTEP, uid=UID)
    copy._on_event("QUORUM_REPORT_BAD", {"node-name": node, "error": "Input/output error"}, 0.0)
    assert not await resync.begin_record(copy, endophyte(), pair())
    assert copy.qmp.bitmaps == []


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_secondary_whose_disk_refused_a_write_keeps_nothing(bench, tmp_path, monkeypatch, is_late):
    """Also where it is heard as late as with the stop that lets QEMU write everything out."""

    async def keep_older(self):
        raise AssertionError("a torn copy is kept")

    monkeypatch.setattr("hostagent.drivers.disk.copy.DiskSet.keep_older", keep_older)
    await bench.pair_is()
    says = observed("h1", P, CopyStage.RUNNING, epoch=3, older=(NAME,))
    copy = await bench.copy(tmp_path, "h2", says, role=S, stage=CopyStage.LOCKSTEP, uid=UID)

    def refuse():
        copy._on_event("QUORUM_REPORT_BAD", {"node-name": "guard0f", "error": "Input/output error"}, 0.0)

    async def execute(*_, **__):
        refuse()

    copy.qmp = SimpleNamespace(execute=execute)
    if not is_late:
        refuse()
    assert not await resync.keep_copy(copy)
    assert copy.trouble.is_torn


async def test_a_vm_that_is_deleted_or_not_in_sync_records_nothing(bench, tmp_path):
    copy = await bench.copy(tmp_path, "h1", role=P, stage=CopyStage.LOCKSTEP, uid=UID)
    assert not await resync.begin_record(copy, endophyte(deleting=True), pair())
    assert not await resync.begin_record(copy, endophyte(), pair(sync=SyncState.SYNCING))
    assert copy.qmp.said == []


async def test_a_secondary_that_the_leader_withdrew_is_recorded_too(bench, tmp_path):
    copy = await bench.copy(tmp_path, "h1", role=P, stage=CopyStage.LOCKSTEP, uid=UID)
    await resync.record_withdrawn(copy, await bench.pair_is())
    assert copy.state.older == (NAME,)


@pytest.mark.parametrize(
    ("stage", "is_recorded"),
    [(CopyStage.LOCKSTEP, True), (CopyStage.LEAVING, False), (CopyStage.ENTERING, False)],
)
async def test_only_out_of_lockstep_a_withdrawn_secondary_is_recorded(
    bench, tmp_path, monkeypatch, stage, is_recorded
):
    async def nothing(*_args, **_more):
        return None

    for name in ("leave", "resume"):
        monkeypatch.setattr(f"hostagent.drivers.qemu.primary.{name}", nothing)
    monkeypatch.setattr("hostagent.drivers.disk.copy.DiskSet.renew", nothing)
    monkeypatch.setattr(Copy, "reconnect", nothing)
    copy = await bench.copy(tmp_path, "h1", role=P, stage=stage, uid=UID)
    await primary.leave(copy, endophyte(), await bench.pair_is())
    assert (copy.state.older, copy.state.stage) == ((NAME,) if is_recorded else (), CopyStage.RUNNING)
    assert is_recorded or copy.qmp.said == []  # too late: nobody knows what arrived


async def test_a_secondary_keeps_its_disks_only_when_the_primary_records(bench, tmp_path, monkeypatch):
    asked = []

    async def keep_older(self):
        asked.append("kept")
        return older_disks()

    monkeypatch.setattr("hostagent.drivers.disk.copy.DiskSet.keep_older", keep_older)

    async def nothing(self, **_):
        return None

    monkeypatch.setattr(Copy, "end_process", nothing)
    monkeypatch.setattr(Copy, "remove_ports", nothing)
    await bench.pair_is()
    for older, is_kept in (((), False), ((NAME,), True)):
        says = observed("h1", P, CopyStage.RUNNING, epoch=3, older=older)
        copy = await bench.copy(tmp_path, "h2", says, role=S, stage=CopyStage.LOCKSTEP, uid=UID)
        qmp = copy.qmp
        assert await resync.keep_copy(copy) is is_kept
        assert qmp.said == (["stop"] if is_kept else [])
    assert asked == ["kept"]
    assert copy.older == older_disks()
    assert not copy.state.uid


async def test_a_secondary_that_was_not_in_sync_or_is_dead_keeps_nothing(bench, tmp_path):
    await bench.pair_is()
    says = observed("h1", P, CopyStage.RUNNING, epoch=3, older=(NAME,))
    copy = await bench.copy(tmp_path, "h2", says, role=S, stage=CopyStage.CHECKPOINTING, uid=UID)
    assert not await resync.keep_copy(copy)
    copy = await bench.copy(tmp_path, "h2", says, role=S, stage=CopyStage.LOCKSTEP, uid=UID)
    copy.process = None
    assert not await resync.keep_copy(copy)


@pytest.mark.parametrize(
    ("disks", "named", "is_kept"),
    [
        (older_disks(), (OLDER,), True),
        (older_disks(), (), False),
        (older_disks(uid="another"), (OLDER,), False),
        (older_disks().with_(state=DiskState.DIRTY), (OLDER,), False),
        (older_disks().with_(state=DiskState.CLEAN), (OLDER,), False),
    ],
)
async def test_disks_that_were_kept_when_the_host_lost_its_power_stay(
    bench, tmp_path, monkeypatch, disks, named, is_kept
):
    """It found the rest of its folder still there, and goes on to remove that."""

    async def nothing(self, **_):
        return None

    monkeypatch.setattr(Copy, "end_process", nothing)
    monkeypatch.setattr(Copy, "remove_ports", nothing)
    await bench.pair_is(older=named)
    copy = await bench.copy(tmp_path, "h2", role=S, stage=CopyStage.LOCKSTEP, uid=UID)
    copy.process = None
    copy.guest.mkdir()
    for path in (copy.guest / "parent0.qcow2", copy.guest / "active0.qcow2", copy.folder / "agent.json"):
        path.touch()
    (copy.folder / "copy.json").write_text(disks.to_json())
    assert await resync.keep_copy(copy) is is_kept
    if is_kept:
        left = {path.name for path in copy.folder.rglob("*")} - {"journal.jsonl"}
        assert left == {"copy.json", "guest", "parent0.qcow2"}
        assert resync.is_kept(copy)


async def test_a_qemu_that_cannot_write_out_keeps_nothing(bench, tmp_path):
    await bench.pair_is()
    says = observed("h1", P, CopyStage.RUNNING, epoch=3, older=(NAME,))
    copy = await bench.copy(tmp_path, "h2", says, role=S, stage=CopyStage.LOCKSTEP, uid=UID)

    async def refuse(*_, **__):
        raise QmpError("no", code="qmp-refused")

    copy.qmp = SimpleNamespace(execute=refuse)
    assert not await resync.keep_copy(copy)


async def test_the_entry_copies_what_the_secondary_says_that_it_lacks(bench, tmp_path):
    ready = observed("h2", S, CopyStage.READY, machine=FACTS, resumes=NAME)
    copy = await bench.copy(tmp_path, "h1", ready, role=P, uid=UID, machine=FACTS)
    with pytest.raises(UnavailableError) as caught:
        await resync.entry_plan(copy, pair())
    assert caught.value.code == "record-lost"
    copy.qmp.bitmaps.append({"name": NAME, "recording": True})
    plan = await resync.entry_plan(copy, pair())
    assert (plan.changes_since, plan.bases, plan.copy_bytes_per_s) == (NAME, (True,), 1_000_000)
    await resync.forget_used(copy, plan)
    assert copy.qmp.bitmaps == []


async def test_a_secondary_of_an_older_version_gets_everything(bench, tmp_path):
    theirs = FACTS.with_(disk_bases=())
    ready = observed("h2", S, CopyStage.READY, machine=theirs)
    copy = await bench.copy(tmp_path, "h1", ready, role=P, uid=UID, machine=FACTS)
    plan = await resync.entry_plan(copy, pair())
    assert (plan.changes_since, plan.has_base(0)) == ("", False)


class Disks:
    """Remembers which way the disks were made."""

    def __init__(self, sizes=(8,)):
        self.asked, self.sizes = [], sizes

    async def virtual_sizes(self):
        return self.sizes

    async def bases(self):
        return ("b/abc",)

    async def reuse_older(self, epoch):
        self.asked.append(("reuse", epoch))

    async def create_secondary(self, uid, epoch, sizes, sources):
        self.asked.append(("create", sources))


@pytest.mark.parametrize(
    ("disks", "known", "uid", "resumes"),
    [
        (Disks(), (NAME,), UID, NAME),
        (Disks(), (), UID, ""),
        (Disks(), (NAME,), "another", ""),
        (Disks(sizes=(9,)), (NAME,), UID, ""),
    ],
)
async def test_an_older_copy_is_used_where_everything_agrees(
    bench, tmp_path, monkeypatch, disks, known, uid, resumes
):
    copy = await bench.copy(tmp_path, "h2")
    monkeypatch.setattr(Copy, "disks", disks)
    monkeypatch.setattr(resync, "older_copy", lambda _: older_disks(uid=uid))
    blob = Blob(digest="sha256:" + "a" * 64, size_bytes=1)
    image = Image(kind=ImageKind.KERNEL, disk=blob, kernel=blob, initrd=blob)
    images = {endophyte().image_digest: image}
    base = resync.disk_sources(endophyte(), images)[0]
    says = observed("h1", P, CopyStage.RUNNING, older=known, machine=FACTS.with_(disk_bases=(base.base,)))
    _, facts, found = await resync.secondary_disks(copy, endophyte(), pair(5), images, says)
    assert found == resumes
    if resumes:
        assert disks.asked == [("reuse", 5)]
    else:
        assert disks.asked == [("create", [DiskSource(None, base.base, base.base_format)])]
        assert facts.disk_bases == (base.base,)


async def test_io_that_is_refused_while_a_withdrawn_secondary_is_left_ends_no_copy(
    bench, tmp_path, monkeypatch
):
    """The record is at the new epoch before QEMU is out of lockstep: what is decided then must be to go on leaving."""
    copy = await bench.copy(tmp_path, "h1", role=P, stage=CopyStage.LOCKSTEP, uid=UID)
    after = await bench.pair_is()

    async def nothing(*_, **__):
        return None

    async def refuse(qmp, plan, opened):
        copy._on_event("BLOCK_IO_ERROR", {"action": "stop", "reason": "Input/output error"}, 0.0)
        assert (copy.state.stage, copy.state.epoch) == (CopyStage.LEAVING, after.epoch)
        assert not copy.trouble.is_torn

    monkeypatch.setattr("hostagent.drivers.qemu.primary.leave", refuse)
    monkeypatch.setattr("hostagent.drivers.qemu.primary.resume", nothing)
    monkeypatch.setattr("hostagent.drivers.disk.copy.DiskSet.renew", nothing)
    monkeypatch.setattr(Copy, "reconnect", nothing)
    await primary.leave(copy, endophyte(), after)
    assert (copy.state.stage, copy.state.older) == (CopyStage.RUNNING, (NAME,))
