"""The etcd of host h2, played on a real folder: its log, its process, and whether it serves; and h2's agent.

Its data is a MemoryStore. Of the agent only what concerns its lineage runs.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from pki_support import make_member
from process_support import Program
from protection_world import endophyte, host, pair

from hostagent.agent import lineage, recovery
from hostagent.agent.lineage import LineageKeeper, load
from hostagent.config import AgentConfig
from hostagent.drivers.etcd import EmbeddedMember
from hostagent.drivers.etcd import member as member_module
from hostagent.drivers.etcd.wal import decided
from hostagent.drivers.process import Backoff, Supervised, User
from hostagent.drivers.trust import Trust
from hostagent.server import override
from hostagent.server.override import Override
from hostagent.supervisor.arbiter import swap_pair
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.lineage import Lineage
from vdc.model.pair import Pair
from vdc.protection.arbitration import promote_secondary
from vdc.security.folder import pki_folder
from vdc.security.keyring import Keyring
from vdc.store import keys
from vdc.store.etcd_admin import ClusterMember, MemberStatus
from vdc.store.memory import Fault, MemoryStore
from vdc.store.mirror import Mirror
from vdc.store.protocol import Put, StoreUnavailableError

HOSTS = ("h1", "h2", "h3")
CONFIG = {
    "host": "h2", "state_dir": "/var/lib/vdc", "management": {"address": "10.0.0.2", "interface": "a"},
    "replication": {"address": "10.1.0.2", "interface": "b"}, "overlay_address": "10.77.0.2",
    "etcd": {"embedded": {"members": {"h1": "10.0.0.1", "h2": "10.0.0.2", "h3": "10.0.0.3"}}},
}  # fmt: skip


# ---- its log


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(found + bytes([number]))


def record(kind: int, data: bytes) -> bytes:
    body = b"\x08" + varint(kind) + b"\x10" + varint(12345) + b"\x1a" + varint(len(data)) + data
    padding = -len(body) % 8
    head = len(body) | ((0x80 | padding) << 56 if padding else 0)
    return struct.pack("<Q", head) + body + bytes(padding)


def entry(index: int, data: bytes) -> bytes:
    return record(2, b"\x10\x01\x18" + varint(index) + b"\x22" + varint(len(data)) + data)


def state(commit: int) -> bytes:
    return record(3, b"\x08\x01\x10\x02\x18" + varint(commit))


# ---- itself


class Etcd:
    """`outlives`: a process that is to go on alone lives for long enough to do so."""

    def __init__(self, state_dir: Path) -> None:
        self.log_path = state_dir / "etcd" / "member" / "wal" / "0.wal"
        self.log_path.parent.mkdir(parents=True)
        self.log_path.write_bytes(state(700))
        self.data = MemoryStore()
        self.program: Program | None = None
        self.starts: list[bool] = []  # of each start, whether it was told to go on alone
        self.has_majority = True
        self.is_alone = False
        self.outlives = True
        self.may_serve = True

    @property
    def serves(self) -> bool:
        is_running = self.program is not None and self.program.is_alive()
        return is_running and self.may_serve and (self.is_alone or self.has_majority)

    def write(self, *parts: bytes) -> None:
        with self.log_path.open("ab") as log:
            log.write(b"".join(parts))

    async def spawn(self, argv: Sequence[str], **_: object) -> Program:
        is_told = "--force-new-cluster" in argv
        self.starts.append(is_told)
        self.program = Program()
        if is_told and self.outlives:
            known = decided(self.log_path.parents[2])
            self.write(entry(known + 1, b"without h1"), entry(known + 2, b"without h3"), state(known + 2))
            self.is_alone = True
        elif is_told:
            self.program.ended.set()
        return self.program

    async def find(self, _: Path) -> Program | None:
        return self.program if self.program is not None and self.program.is_alive() else None

    def client(self, endpoints: Sequence[str], **_: object) -> Any:
        made: Any = MemoryStore(self.data.cluster)
        made.fault_hook = lambda _: None if self.serves else Fault.UNAVAILABLE
        made.admin = self
        made.used = list(endpoints)
        made.use_only = lambda used: made.used.__setitem__(slice(None), used)
        return made

    async def member_status(self, endpoint: str) -> MemberStatus:
        return MemberStatus(endpoint, is_healthy=self.serves)

    async def members(self, *, deadline_s: float = 2.0) -> tuple[ClusterMember, ...]:
        if self.program is None or not self.program.is_alive():
            raise StoreUnavailableError("it does not run")
        return tuple(ClusterMember(name, name, (), ()) for name in (("h2",) if self.is_alone else HOSTS))

    async def recorded(self) -> Lineage | None:
        item = await self.data.get(keys.LINEAGE)
        return Lineage.from_json(item.value) if item else None

    async def pair(self) -> Pair:
        item = await self.data.get(keys.pair("web"))
        assert item is not None
        return Pair.from_json(item.value)


class Beats:
    """What h2 hears of its peers, and what it tells them."""

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self.silence_ms = 60_000.0
        self.newest: tuple[int, tuple[str, ...]] = (0, ("h1", "h3"))
        self.told = -1

    def is_silent(self, name: str) -> bool:
        return name not in self.alive

    def silent_ms(self, name: str, network: str) -> float:
        return self.silence_ms

    def refused(self, name: str) -> dict[str, int]:
        return {"signature": 1}

    def newest_lineage(self) -> tuple[int, tuple[str, ...]]:
        return self.newest

    def tell_lineage(self, number: int) -> None:
        self.told = number


class Agent:
    """h2's agent. `crash` leaves what is on the disk, and etcd."""

    def __init__(self, etcd: Etcd, config: AgentConfig) -> None:
        self.etcd = etcd
        embedded = config.etcd.embedded
        assert embedded is not None
        self.member = EmbeddedMember(
            "h2", embedded, state_dir=config.state_dir, runtime=None, user=User(1),
            trust=Trust(Keyring(pki_folder(config.state_dir))), backoff=Backoff(0.01, 1.0, 0.01),
        )  # fmt: skip
        self.keeper = LineageKeeper(config, self.member)
        self.store = etcd.client(self.keeper.endpoints())
        self.events: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.beats = Beats()
        self.host: Any = SimpleNamespace(
            name="h2", config=config, lineage=0, store=self.store, heartbeats=self.beats,
            mirror=Mirror(self.store, report=self.events.append), log=structlog.get_logger(),
            clock=SimpleNamespace(boottime_s=lambda: asyncio.get_running_loop().time(), wall=lambda: ""),
            tell=self._tell, tell_of_node=self._tell, store_heard_at_s=0.0,
        )  # fmt: skip
        self.override = Override(self.host, self.store, self.member, self.keeper, lambda _: self.supervisor)
        copy = SimpleNamespace(
            is_alive=True, state=SimpleNamespace(epoch=2, role=CopyRole.SECONDARY, stage=CopyStage.LOCKSTEP)
        )
        self.supervisor: Any = SimpleNamespace(host=self.host, copy=copy, promote_forced=self._promote)

    async def _tell(self, name: str, code: str = "", *_: object, **__: object) -> None:
        self.events.append(code or name)

    async def _promote(self, reason: str) -> Pair:
        return await swap_pair(
            self.host, "web", 2, lambda p, r, now: promote_secondary(p, reason=reason, request_id=r, now=now)
        )

    async def start(self) -> None:
        """As Agent._start_etcd and what follows it."""
        await self.keeper.resume()
        self.store.use_only(self.keeper.endpoints())
        if self.keeper.may_vote:
            self.tasks.append(asyncio.create_task(self.member.run()))
        self.tasks.append(asyncio.create_task(self.host.mirror.run()))
        self.tasks.append(asyncio.create_task(self.keeper.keep(self.host, self.store)))
        await asyncio.sleep(0)

    def crash(self) -> None:
        for task in self.tasks:
            task.cancel()

    async def end(self) -> None:
        self.crash()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


RECORD = Lineage(number=1, host="h2", left_out=("h1", "h3"), by="somebody", reason="forced")


class DiedError(Exception):
    """The agent is gone at this point."""


async def without_majority(etcd: Etcd, config: AgentConfig) -> Agent:
    """An agent that has seen the records, and whose etcd has lost its majority."""
    agent = Agent(etcd, config)
    await agent.start()
    await until(lambda: etcd.serves and agent.host.mirror.synced.is_set())
    etcd.has_majority = False
    return agent


async def begin(agent: Agent, look: Callable[[Path], None] = lambda _: None) -> None:
    await agent.keeper.begin(agent.host, agent.store, RECORD, look)


async def power_cycled(agent: Agent, etcd: Etcd, config: AgentConfig) -> Agent:
    """Whatever ran on the host is gone; what runs next finds the disk."""
    await agent.end()
    if etcd.program is not None:
        etcd.program.ended.set()
    following = Agent(etcd, config)
    await following.start()
    return following


async def assert_begun(agent: Agent, etcd: Etcd, config: AgentConfig, *, by: str = "somebody") -> None:
    """Lineage 1 is in force: in the store, on the disk, in what is told and what is stamped."""
    async with asyncio.timeout(30):
        while await etcd.recorded() is None:
            await asyncio.sleep(0.005)
    found = await etcd.recorded()
    assert found and (found.number, found.host, found.left_out, found.by) == (1, "h2", ("h1", "h3"), by)
    assert load(config.state_dir).number == 1
    assert (agent.host.lineage, agent.beats.told) == (1, 1)
    assert agent.keeper.endpoints() == agent.store.used == ["https://10.0.0.2:7379"]
    assert not agent.keeper.known.left_out


async def assert_starts_as_usual(agent: Agent, etcd: Etcd) -> None:
    """Whoever has joined since stays a member."""
    before = len(etcd.starts)
    assert etcd.program
    etcd.program.ended.set()
    await until(lambda: len(etcd.starts) > before)
    assert etcd.starts[-1] is False
    assert not await agent.member.is_going_alone()


@pytest.fixture
async def etcd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Etcd:
    """In place of the program and of its clients, wherever the product asks for them."""
    made = Etcd(tmp_path)
    await made.data.commit([], [Put(keys.host(name), host(name).to_json()) for name in HOSTS])
    await made.data.commit([], [Put(keys.pair("web"), pair().to_json())])
    await made.data.commit([], [Put(keys.endophyte("web"), endophyte().to_json())])
    monkeypatch.setattr(member_module, "spawn_in_sandbox", made.spawn)
    for module in (member_module, recovery):
        monkeypatch.setattr(module, "EtcdStore", made.client)
    monkeypatch.setitem(Supervised.__init__.__kwdefaults__ or {}, "find", made.find)
    monkeypatch.setattr(lineage, "LOOK_EVERY_S", 0.005)
    monkeypatch.setattr(override, "ALONE_S", 2.0)
    return made


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    make_member(tmp_path, "h2", "10.0.0.2")
    without_runtime = AgentConfig.model_validate(CONFIG)
    return without_runtime.model_copy(update={"state_dir": tmp_path, "runtime": None})
