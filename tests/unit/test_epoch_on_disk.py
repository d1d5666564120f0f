"""I2: an epoch that this host could not write down is not acted on, whoever committed it.

The guest's QEMU is one that fails the test when it is spoken to.
"""

from __future__ import annotations

import asyncio
import errno
from types import SimpleNamespace

import pytest
from protection_world import UID, endophyte, pair

from hostagent.drivers.process import reserve
from hostagent.supervisor import primary, secondary
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.failpoints import Failpoints
from hostagent.supervisor.state import CopyState, PlanRecord, load_state, save_state
from vdc.model.endophyte import CopyRole, CopyStage, MachineFacts
from vdc.model.errors import UnavailableError
from vdc.model.pair import SyncState

PLAN = PlanRecord(
    epoch=2, slot=0, disks=0, nics=1, primary_address="a", secondary_address="b", has_rewriter=False,
    checkpoint_ms=300,
)  # fmt: skip
FACTS = MachineFacts(accelerator="tcg", cpu_model="qemu64", qemu_version="11.1.3", disk_sizes_bytes=())


class Untouchable:
    """A QMP session that nobody may use."""

    closed = SimpleNamespace(is_set=lambda: False)

    def __getattr__(self, name):
        raise AssertionError(f"QEMU was spoken to: {name}")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    host = SimpleNamespace(
        name="h1", vms_dir=tmp_path, image_dir=tmp_path, config=SimpleNamespace(runtime=None),
        clock=SimpleNamespace(boottime_s=lambda: 0.0, wall=lambda: ""), failpoints=Failpoints(),
        record=SimpleNamespace(accelerator=SimpleNamespace(name="tcg")),
    )  # fmt: skip
    found = Copy(host, "web", lambda: None)
    found.state = CopyState(
        name="web", uid=UID, role=CopyRole.PRIMARY, stage=CopyStage.LOCKSTEP, epoch=2, highest_epoch=2, plan=PLAN,
        machine=FACTS,
    )  # fmt: skip
    found._durable_epoch = 2
    found.qmp = Untouchable()
    return found


@pytest.fixture
def full_disk(monkeypatch):
    def refuse(path, text, mode=0o640):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reserve, "write_atomically", refuse)


async def test_going_alone_under_an_epoch_that_is_not_on_disk_touches_nothing(copy, full_disk):
    with pytest.raises(UnavailableError) as caught:
        await primary.leave(copy, endophyte(), pair(3, secondary=None))
    assert caught.value.code == "state-unwritable"
    assert copy.state.epoch == 2


async def test_winning_the_arbitration_is_not_enough(copy, full_disk, monkeypatch):
    committed = []

    async def win(host, name, epoch, following):
        committed.append(following(pair(2), "r", "now"))
        return committed[0]

    monkeypatch.setattr(primary, "swap_pair", win)
    with pytest.raises(UnavailableError):
        await primary.alone(copy, endophyte(), pair(2), "alone")
    assert committed[0].epoch == 3, "it was won"
    assert copy.state.stage is CopyStage.LOCKSTEP


async def test_a_promotion_that_is_not_on_disk_opens_nothing(copy, full_disk, monkeypatch):
    copy.state = copy.state.with_(role=CopyRole.SECONDARY)

    async def win(host, name, epoch, following):
        return following(pair(2, sync=SyncState.IN_SYNC, secondary="h1", primary="h2"), "r", "now")

    monkeypatch.setattr(secondary, "swap_pair", win)
    before = pair(2, primary="h2", secondary="h1")
    with pytest.raises(UnavailableError):
        await secondary.promote(copy, before, "taking over")
    with pytest.raises(UnavailableError):  # and again, by the record that says so already
        await secondary.take_over(copy, pair(3, primary="h1", secondary=None))
    assert copy.state.role is CopyRole.SECONDARY


async def test_a_new_epoch_for_the_same_part_is_written_down_first(copy, full_disk):
    with pytest.raises(UnavailableError):
        await primary.adopt_epoch(copy, endophyte(), pair(3))


async def test_what_is_on_disk_already_is_not_written_again(copy, full_disk):
    await copy.remember_epoch(2)
    with pytest.raises(UnavailableError):
        await copy.remember_epoch(3)


async def test_a_full_disk_has_room_for_the_epoch(tmp_path, monkeypatch):
    """The reserve that the first save made is what the later one is written into."""
    await save_state(tmp_path, CopyState(name="web", uid=UID, epoch=1))
    assert (tmp_path / reserve.RESERVE_FILE).stat().st_blocks * 512 >= reserve.RESERVE_BYTES
    write = reserve.write_atomically

    def full_while_reserved(path, text, mode=0o640):
        if (path.parent / reserve.RESERVE_FILE).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text, mode)

    monkeypatch.setattr(reserve, "write_atomically", full_while_reserved)
    await save_state(tmp_path, CopyState(name="web", uid=UID, epoch=2))
    assert load_state(tmp_path).epoch == 2
    await asyncio.sleep(0)
