"""What is left of one snapshot is removed before the next one begins: both have files and jobs of the same names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from protection_world import endophyte, pair

from hostagent.drivers.qemu.qmp import QmpError, QmpTimeoutError
from hostagent.drivers.qemu.snapshots import SnapshotPlan
from hostagent.supervisor import copyroom, snapshotting, storing
from hostagent.supervisor.copyroom import NO_MARKS
from hostagent.supervisor.snapshotting import Snapshots
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import ConflictError, RefusedError
from vdc.model.snapshot import Snapshot

VM = endophyte()
LEFT = Snapshot(
    name="old", endophyte="web", uid=VM.uid, host="h2", epoch=1, created_at="", is_quiesced=False, was_running=True,
    manifest=VM.manifest, disks=(),
)  # fmt: skip


class Bench:
    """A VM with a record of a snapshot that nobody takes any more; removing it waits until it `may_go`."""

    def __init__(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.did: list[str] = []
        self.now = 1000.0
        self.is_silent = False  # what has to be removed, is, or QEMU
        self.may_go, self.is_removing = asyncio.Event(), asyncio.Event()
        entry = SimpleNamespace(value=LEFT)
        mirror = SimpleNamespace(
            snapshots={"web/old": entry}, pair=lambda name: pair(primary="h1", secondary=None)
        )
        copy: Any = SimpleNamespace(
            name="web", guest=tmp_path, is_alive=False, qmp=None, needs_session=False,
            state=SimpleNamespace(role=CopyRole.PRIMARY, epoch=2, machine=None),
            host=SimpleNamespace(
                name="h1", mirror=mirror, tell=self.tell, config=SimpleNamespace(resync_mbit=0), vms_dir=tmp_path,
                clock=SimpleNamespace(boottime_s=lambda: self.now),
            ),
        )  # fmt: skip
        self.copy, self.lock = copy, asyncio.Lock()
        self.snapshots = Snapshots(copy, lambda: None, self.lock)
        monkeypatch.setattr(Snapshots, "_records", self)
        monkeypatch.setattr(self.snapshots, "_clean_up", self.clean_up)
        monkeypatch.setattr(self.snapshots, "_take", self.take)

    async def has(self, _one: Snapshot) -> bool:
        return True

    async def forget(self, _one: Snapshot) -> None:
        self.did.append("forgotten")

    async def tell(self, *_: object, **__: object) -> None:
        """Nobody listens."""

    async def clean_up(self) -> None:
        self.is_removing.set()
        await self.may_go.wait()
        if self.is_silent:
            raise QmpTimeoutError("QEMU web did not answer")
        self.did.append("cleaned up")

    async def take(self, name: str, *, quiesce: bool, memory: bool = False) -> Any:
        self.did.append(f"takes {name}")
        return name


@pytest.fixture
def bench(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


async def _undoing(bench: Bench) -> None:
    """As when taking one failed and QEMU was slow to let go of it."""
    bench.snapshots._removing = asyncio.create_task(bench.snapshots._undo(LEFT))


async def _sweeping(bench: Bench) -> None:
    bench.snapshots.look()


@pytest.mark.parametrize("begin", [_sweeping, _undoing])
async def test_a_new_one_waits_until_what_is_left_has_gone(
    bench: Bench, begin: Callable[[Bench], Any]
) -> None:
    await begin(bench)
    await bench.is_removing.wait()
    taking = asyncio.create_task(bench.snapshots.take("new", quiesce=False))
    await asyncio.sleep(0.01)
    bench.snapshots.look()
    with pytest.raises(ConflictError):
        await bench.snapshots.take("another", quiesce=False)
    assert bench.did == []
    bench.may_go.set()
    async with asyncio.timeout(5):
        await taking
    assert bench.did == ["cleaned up", "forgotten", "takes new"]
    await bench.snapshots.close()


async def test_nothing_is_removed_while_one_is_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = asyncio.Event()

    async def slow(_name: str, *, quiesce: bool, memory: bool = False) -> Any:
        await goes_on.wait()

    monkeypatch.setattr(bench.snapshots, "_take", slow)
    taking = asyncio.create_task(bench.snapshots.take("new", quiesce=False))
    await asyncio.sleep(0)
    bench.snapshots.look()
    await asyncio.sleep(0)
    assert not bench.is_removing.is_set()
    goes_on.set()
    await taking
    bench.snapshots.look()
    await bench.is_removing.wait()
    await bench.snapshots.close()


class Copying:
    """In place of `_copy_out`: its file is there from the beginning, and it ends when it may."""

    def __init__(self, folder: Path) -> None:
        (folder / "disk").write_bytes(b"disk")
        self.file = (folder / "disk").open("rb")
        self.may_end, self.is_undone = asyncio.Event(), False

    async def __call__(self, _name: str, *, quiesce: bool, marks: Any) -> Any:
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # QEMU is told
            self.is_undone = True
            self.file.close()
            raise
        return LEFT, [self.file]


@pytest.mark.parametrize("is_complete", [False, True])
async def test_nobody_else_has_the_files_of_whoever_went_away(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_complete: bool
) -> None:
    copying = Copying(tmp_path)
    monkeypatch.setattr(bench.snapshots, "_copy_out", copying)
    reader = asyncio.create_task(bench.snapshots.copy_out("b", quiesce=False, marks=NO_MARKS))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    making = bench.snapshots._task
    assert making is not None
    if is_complete:
        making.add_done_callback(lambda _: reader.cancel())
        copying.may_end.set()
    else:
        reader.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await reader
    assert copying.file.closed and making.done()
    assert copying.is_undone is not is_complete


async def test_its_record_stays_until_qemu_has_let_go(bench: Bench) -> None:
    """A transaction that nobody waits for any more may still begin."""
    bench.may_go.set()
    bench.is_silent = True
    await bench.snapshots._undo(LEFT)
    for _ in range(2):  # a QEMU that is silent is not asked at every look
        bench.snapshots.look()
        assert bench.snapshots._removing is not None
        await bench.snapshots._removing
    assert bench.did == []
    bench.is_silent = False
    bench.now += 60
    bench.snapshots.look()
    await bench.snapshots._removing
    assert bench.did == ["cleaned up", "forgotten"]


async def test_a_qemu_that_lives_and_cannot_be_asked_has_not_let_go(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def session() -> None:
        raise QmpError("no connection to QEMU")

    monkeypatch.undo()  # the real removing
    bench.copy.is_alive, bench.copy.session = True, session
    bench.copy.state.stage = CopyStage.LOCKSTEP
    with pytest.raises(QmpError):
        await bench.snapshots._clean_up()


class Fixing:
    """In place of what fixes the moment in QEMU."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_begun, self.may_end = asyncio.Event(), asyncio.Event()
        bench.copy.session = lambda: None
        monkeypatch.setattr(bench.snapshots, "_require_fit", lambda **_: True)
        monkeypatch.setattr(snapshotting.snapshots, "begin", self)
        fix = bench.snapshots._fix(SnapshotPlan(1), quiesce=False)
        self.task = bench.snapshots._begun(lambda: fix)

    async def __call__(self, *_: object) -> None:
        self.has_begun.set()
        await self.may_end.wait()


async def test_what_cannot_wait_does_not_wait_for_a_qemu_that_hangs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixing = Fixing(bench, monkeypatch)
    await fixing.has_begun.wait()
    assert bench.lock.locked()
    async with asyncio.timeout(5):
        await bench.snapshots.give_way()
        async with bench.lock:
            assert fixing.task.cancelled()


async def test_what_cannot_wait_leaves_a_moment_to_what_does_not_hang(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixing = Fixing(bench, monkeypatch)
    await fixing.has_begun.wait()
    monkeypatch.setattr(snapshotting, "_GIVE_WAY_S", 5)
    asyncio.get_running_loop().call_soon(fixing.may_end.set)
    await bench.snapshots.give_way()
    await fixing.task
    await bench.snapshots.give_way()


class Filling:
    """A disk that becomes full while something works that nobody else would end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.was_ended, self.free = False, 1 << 40
        monkeypatch.setattr(copyroom, "_LOOK_S", 0.001)
        monkeypatch.setattr(copyroom.shutil, "disk_usage", lambda _: SimpleNamespace(free=self.free))

    async def work(self, *_: object) -> Any:
        self.free = 0
        try:
            await asyncio.Event().wait()
        finally:
            self.was_ended = True


async def test_a_stopped_vms_copy_ends_when_there_is_no_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling = Filling(monkeypatch)

    async def heads(_uid: str) -> Any:
        return SimpleNamespace(heads=["disk0.qcow2"])

    async def info(_head: str) -> Any:
        return SimpleNamespace(virtual_bytes=1)

    async def enough(*_: object) -> None:
        """As far as anybody knows."""

    bench.copy.state.uid, bench.copy.disks = "uid", SimpleNamespace(bootable=heads)
    monkeypatch.setattr(Snapshots, "_tool", SimpleNamespace(info=info, flatten=filling.work))
    monkeypatch.setattr(bench.snapshots, "_require_fit", lambda **_: False)
    monkeypatch.setattr(bench.snapshots, "_require_room", enough)
    async with asyncio.timeout(5):
        with pytest.raises(RefusedError) as caught:
            await bench.snapshots._copy_idle(NO_MARKS)
    assert caught.value.code == "no-space" and filling.was_ended and not bench.lock.locked()


async def test_storing_ends_when_there_is_no_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    filling = Filling(monkeypatch)

    @asynccontextmanager
    async def made(*_: object, **__: object) -> Any:
        yield VM, LEFT

    monkeypatch.setattr(bench.snapshots, "_made", made)
    monkeypatch.setattr(storing, "store", filling.work)
    async with asyncio.timeout(5):
        with pytest.raises(RefusedError) as caught:
            await Snapshots._take(bench.snapshots, "new", quiesce=False, memory=False)
    assert caught.value.code == "no-space" and filling.was_ended
