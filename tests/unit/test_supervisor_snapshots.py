"""What is left of one snapshot is removed before the next one begins: both have files and jobs of the same names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from protection_world import endophyte, pair

from hostagent.supervisor.copyroom import NO_MARKS
from hostagent.supervisor.snapshotting import Snapshots
from vdc.model.endophyte import CopyRole
from vdc.model.errors import ConflictError
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
        self.may_go, self.is_removing = asyncio.Event(), asyncio.Event()
        entry = SimpleNamespace(value=LEFT)
        mirror = SimpleNamespace(
            snapshots={"web/old": entry}, pair=lambda name: pair(primary="h1", secondary=None)
        )
        copy: Any = SimpleNamespace(
            name="web", guest=tmp_path, is_alive=False, qmp=None,
            state=SimpleNamespace(role=CopyRole.PRIMARY, epoch=2, machine=None),
            host=SimpleNamespace(name="h1", mirror=mirror, tell=self.tell, config=SimpleNamespace(resync_mbit=0)),
        )  # fmt: skip
        self.snapshots = Snapshots(copy, lambda: None, asyncio.Lock())
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
