"""`verifyEvery`: when a pair is due for a comparison."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from protection_world import endophyte, pair

from hostagent.agent.verifier import Verifier
from vdc.model.endophyte import CopyStage
from vdc.model.manifest import ProtectionTuning
from vdc.model.pair import SyncState
from vdc.model.units import parse_duration


class World:
    """A host with one VM."""

    def __init__(self, every="1h"):
        self.now_s = 1_000.0
        self.pair = pair(primary="h1")
        self.endophyte = endophyte(protection={"verifyEvery": every} if every else {})
        self.stage = CopyStage.LOCKSTEP
        mirror = SimpleNamespace(endophyte=lambda name: self.endophyte, pair=lambda name: self.pair)
        clock = SimpleNamespace(boottime_s=lambda: self.now_s)
        supervisor = SimpleNamespace(copy=SimpleNamespace(state=self))
        host = SimpleNamespace(name="h1", mirror=mirror, clock=clock)
        self.verifier = Verifier(host, {"web": supervisor}, lambda name: None)

    def due_after(self, seconds):
        self.now_s += seconds
        return self.verifier.due() == ["web"]


def test_it_is_due_when_the_time_has_passed_and_then_again():
    world = World()
    assert [world.due_after(s) for s in (0, 3_599, 1, 1, 3_598, 1)] == [
        False, False, True, False, False, True,
    ]  # fmt: skip


def test_the_time_begins_anew_under_another_epoch():
    world = World()
    assert not world.due_after(0)
    world.pair = world.pair.with_(epoch=world.pair.epoch + 1)
    assert not world.due_after(3_600)
    assert world.due_after(3_600)


@pytest.mark.parametrize("what", ["not wanted", "elsewhere", "syncing", "not in lockstep", "no record"])
def test_it_is_never_due(what):
    world = World(every=None if what == "not wanted" else "1m")
    match what:
        case "elsewhere":
            world.pair = pair(primary="h2", secondary="h1", spares=())
        case "syncing":
            world.pair = pair(primary="h1", sync=SyncState.SYNCING)
        case "not in lockstep":
            world.stage = CopyStage.RUNNING
        case "no record":
            world.pair = None
    assert not any(world.due_after(10_000) for _ in range(3))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), (60, 60)]
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0h", "-1h", "1.5h", "1w", "h", "99999999h", 0, True, None])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_more_often_than_once_a_minute_is_refused():
    with pytest.raises(ValueError, match="60"):
        ProtectionTuning(verify_every=59)
