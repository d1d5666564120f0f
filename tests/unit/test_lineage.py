"""Lineages: a history that was cut is not followed any more, a log is read before it is cut, a human confirms."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from etcd_support import entry, state
from protection_world import endophyte, pair, secondary_in

from hostagent.agent.lineage import LineageKeeper, LocalLineage, load, save
from hostagent.config import AgentConfig
from hostagent.drivers.etcd.wal import undecided
from hostagent.server.undecided import pairs_in
from vdc.api.models import ClusterStatus, EndophyteDescription, EndophyteView, ViewMetadata
from vdc.cli.errors import UsageFault
from vdc.cli.forcing import confirm_name, explanation
from vdc.model.endophyte import CopyStage
from vdc.model.errors import BugError
from vdc.model.lineage import Lineage
from vdc.model.pair import Pair, SyncState
from vdc.protection.decide import decide
from vdc.protection.events import Event
from vdc.protection.invariants import check_transition
from vdc.protection.snapshot import PeerView
from vdc.protection.status import endophyte_status
from vdc.protection.table import Action
from vdc.store import keys
from vdc.store.memory import MemoryStore
from vdc.store.mirror import Mirror
from vdc.store.protocol import Put, StoreUnavailableError

CONFIG = {
    "host": "h1", "state_dir": "/var/lib/vdc", "management": {"address": "10.0.0.1", "interface": "a"},
    "replication": {"address": "10.1.0.1", "interface": "b"}, "overlay_address": "10.77.0.1",
    "etcd": {"embedded": {"members": {"h1": "10.0.0.1", "h2": "10.0.0.2", "h3": "10.0.0.3"}}},
}  # fmt: skip


# ---- the records


def test_a_record_of_an_older_agent_has_lineage_0_and_none_shrinks() -> None:
    document = pair().model_dump(mode="json")
    del document["lineage"]
    assert Pair.model_validate(document).lineage == 0
    check_transition(pair(), pair().with_(lineage=1))
    with pytest.raises(BugError, match="lineage"):
        check_transition(pair().with_(lineage=2), pair().with_(lineage=1))


class Switched:
    """A client that is pointed to another store."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)


async def filled(lineage: int, epoch: int, revisions: int) -> MemoryStore:
    store = MemoryStore()
    for number in range(revisions):
        await store.commit([], [Put("/vdc/events/x", str(number))])
    await store.commit([], [Put(keys.pair("web"), pair(epoch=epoch).to_json())])
    if lineage:
        await store.commit([], [Put(keys.LINEAGE, Lineage(number=lineage, host="h2").to_json())])
    return store


async def test_a_newer_lineage_replaces_what_was_seen_whatever_the_revisions() -> None:
    switched = Switched(await filled(0, 7, revisions=50))
    mirror = Mirror(switched, report=lambda sentence: None)  # type: ignore[arg-type]
    await mirror.read_all()
    old = switched.store
    switched.store = await filled(1, 3, revisions=1)
    await mirror.read_all()
    found = mirror.pair("web")
    assert found and found.epoch == 3 and mirror.lineage.number == 1

    switched.store = old
    with pytest.raises(StoreUnavailableError, match="lineage 0"):
        await mirror.read_all()
    assert mirror.lineage.number == 1


async def test_what_is_required_is_not_read_from_an_older_member() -> None:
    mirror = Mirror(await filled(0, 7, revisions=1), report=lambda sentence: None)
    mirror.require_lineage(1)
    with pytest.raises(StoreUnavailableError):
        await mirror.read_all()
    assert not mirror.synced.is_set()


# ---- what a host remembers


async def test_who_was_left_out_asks_the_others_and_does_not_vote(tmp_path: Path) -> None:
    config = AgentConfig.model_validate(CONFIG).model_copy(update={"state_dir": tmp_path})
    assert LineageKeeper(config, None).endpoints()[0] == "https://10.0.0.1:7379"
    await save(tmp_path, LocalLineage(number=2, left_out=True, members=("h3",)))
    keeper = LineageKeeper(config, None)
    assert not keeper.may_vote
    assert keeper.endpoints() == ["https://10.0.0.3:7379"]
    await save(tmp_path, LocalLineage(number=2, members=("h1",)))
    assert LineageKeeper(config, None).endpoints() == ["https://10.0.0.1:7379"]
    assert load(tmp_path).number == 2


# ---- etcd's log


def test_only_what_is_not_known_to_be_decided_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "member" / "wal"
    folder.mkdir(parents=True)
    log = io.BytesIO()
    for part in (
        entry(1, b"a"),
        state(1),
        entry(2, b"b"),
        entry(3, b"old"),
        entry(3, b"new" * 100),
        bytes(64),
    ):
        log.write(part)
    (folder / "0.wal").write_bytes(log.getvalue())
    assert undecided(tmp_path) == (b"b", b"new" * 100)
    (folder / "1.wal").write_bytes(state(2) + entry(4, b"torn" * 9)[:-12])
    assert undecided(tmp_path) == (b"new" * 100,)
    (folder / "2.wal").write_bytes(b"\xff" * 64)
    with pytest.raises(ValueError, match="not etcd's log"):
        undecided(tmp_path)


def test_a_log_that_is_not_there_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no etcd log"):
        undecided(tmp_path)


def test_pairs_are_found_in_an_entry() -> None:
    found = pair(epoch=9).with_(reason="going on alone – ä")
    data = b"\x12\x05{\x01" + keys.pair("web").encode() + b"\x1a\xff" + found.to_json().encode() + b"\x00}{"
    assert pairs_in(data) == [found]
    assert pairs_in(found.to_json().encode()) == []  # of another key


# ---- what is decided and said


def test_without_a_majority_the_replica_says_what_is_needed() -> None:
    silent = PeerView(management_silent_ms=900.0, replication_silent_ms=900.0)
    snapshot = secondary_in(CopyStage.LOCKSTEP, peer=silent)
    assert decide(snapshot).row.event is Event.PEER_LOST_LATER
    decision = decide(type(snapshot)(**{**_fields(snapshot), "store_silent_ms": 5_000.0}))
    assert decision.row.event is Event.PEER_LOST_UNDECIDED
    assert decision.action is Action.PROMOTE  # it is asked for again and again: a majority may come back
    assert "vdc promote replica web --force after you made sure that h1 is off" in decision.sentence


def _fields(snapshot: object) -> dict[str, object]:
    return {name: getattr(snapshot, name) for name in snapshot.__dataclass_fields__}  # type: ignore[attr-defined]


def description(found: Pair) -> EndophyteDescription:
    status = endophyte_status(endophyte(), found, (), frozenset())
    view = EndophyteView(metadata=ViewMetadata(name="web", uid=found.uid), spec={}, status=status)
    return EndophyteDescription(view=view, pair=found, copies=(), events=())


def test_the_explanation_names_who_has_to_be_off() -> None:
    lost = ClusterStatus(version="1", host="h2", leader=None, store="silent", majority=False)
    text = explanation(description(pair()), lost, None)
    assert (
        "h1 is OFF" in text
        and "hostagent rejoin" in text
        and "nothing that the guest has acknowledged" in text
    )
    assert len(text.splitlines()) < 24
    assert "h2 is OFF" in explanation(description(pair()), lost, "h1")
    filling = explanation(description(pair(sync=SyncState.SYNCING)), lost, None)
    assert "will be refused" in filling


def test_without_a_terminal_the_name_has_to_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    confirm_name("web", "web")
    monkeypatch.setattr("sys.stdin", io.StringIO("web\n"))
    with pytest.raises(UsageFault, match="there is no terminal"):
        confirm_name("web", None)
    with pytest.raises(UsageFault, match="is not web"):
        confirm_name("web", "wbe")


class Member:
    """A member with data of its own."""

    has_data = True

    def __init__(self) -> None:
        self.is_stopped = False

    async def stop(self) -> None:
        self.is_stopped = True


class Beats:
    """What the peers tell, and what is told to them."""

    def __init__(self) -> None:
        self.newest: tuple[int, tuple[str, ...]] = (0, ("h2", "h3"))
        self.told: list[int] = []

    def newest_lineage(self) -> tuple[int, tuple[str, ...]]:
        return self.newest

    def tell_lineage(self, number: int) -> None:
        self.told.append(number)


async def test_a_host_whose_peers_are_of_a_newer_lineage_stands_down(tmp_path: Path) -> None:
    """Also where it could still find a majority of the old members: then most of all."""
    config = AgentConfig.model_validate(CONFIG).model_copy(update={"state_dir": tmp_path})
    member, beats, used, said = Member(), Beats(), list[list[str]](), list[str]()

    async def tell(code: str, sentence: str) -> None:
        said.append(code)

    mirror = Mirror(await filled(0, 3, revisions=1), report=said.append)
    await mirror.read_all()
    host = SimpleNamespace(name="h1", lineage=0, mirror=mirror, heartbeats=beats, tell_of_node=tell)
    keeper = LineageKeeper(config, member)  # type: ignore[arg-type]
    keeping = asyncio.create_task(keeper.keep(host, SimpleNamespace(use_only=used.append)))  # type: ignore[arg-type]
    while not beats.told:
        await asyncio.sleep(0)
    assert keeper.may_vote and not member.is_stopped

    beats.newest = (1, ("h3",))
    async with asyncio.timeout(30):
        while not said:
            await asyncio.sleep(0.01)
    keeping.cancel()
    assert said == ["left-out"] and member.is_stopped
    assert used == [["https://10.0.0.3:7379"]]
    assert host.lineage == 1 and not keeper.may_vote
    assert load(tmp_path) == LocalLineage(number=1, left_out=True, members=("h3",))
    with pytest.raises(StoreUnavailableError):
        await mirror.read_all()  # the old members' records are not taken any more
