"""Which lineage this agent acts under, and standing down when a newer one is in force.

A human may have let another member go on alone (vdc.model.lineage). A host that comes back after that has a
member with old data and copies under old epochs. It must not vote again, whatever majority its old cluster
may still find; and it must look at the new records, where the ordinary rules end its stale copies.

Asked before the member starts (the other agents' API), and heard from then on (heartbeats, the records).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import aiohttp
import structlog
from pydantic import ValidationError

from hostagent.config import AgentConfig
from hostagent.drivers.etcd import EmbeddedMember
from hostagent.drivers.etcd.wal import undecided
from hostagent.drivers.process import in_thread, write_atomically
from hostagent.server.override import pairs_in
from hostagent.supervisor.node import NodeContext
from vdc.api.client import ApiClient
from vdc.api.transport import Deadlines
from vdc.control.clock import SystemClock
from vdc.model.base import Record
from vdc.model.errors import ConflictError, RefusedError, UnavailableError, VdcError
from vdc.model.lineage import Lineage
from vdc.store import keys
from vdc.store.etcd import EtcdStore
from vdc.store.protocol import Put, StateStore, Unchanged

LINEAGE_FILE = "lineage.json"
ASK_S = 0.7
LOOK_EVERY_S = 0.2
MEMBERS_EVERY_LOOKS = 25


class LocalLineage(Record):
    """What this host remembers. `left_out`: its own member's data is of an older lineage."""

    number: int = 0
    left_out: bool = False
    members: tuple[str, ...] = ()  # hosts with a member of this lineage, as far as is known; empty: all


def load(state_dir: Path) -> LocalLineage:
    """What is remembered; ConflictError where it cannot be read: then nothing may be assumed."""
    path = state_dir / LINEAGE_FILE
    try:
        return LocalLineage.from_json(path.read_bytes())
    except FileNotFoundError:
        return LocalLineage()
    except (OSError, ValidationError) as error:
        raise ConflictError(f"{path} cannot be read", code="lineage-unreadable") from error


async def save(state_dir: Path, lineage: LocalLineage) -> None:
    """Durable (fsync) when it returns."""
    await in_thread(write_atomically, state_dir / LINEAGE_FILE, lineage.to_json())


class LineageKeeper:
    """One per agent."""

    def __init__(self, config: AgentConfig, member: EmbeddedMember | None) -> None:
        self._config = config
        self._member = member
        self._log = structlog.get_logger()
        self.known = load(config.state_dir)

    async def ask_before_voting(self, session: aiohttp.ClientSession) -> None:
        """Ask every other agent once. Silence says nothing; a newer lineage keeps the member from starting."""
        embedded = self._config.etcd.embedded
        if embedded is None or self._member is None:
            return
        others = {
            name: str(address) for name, address in embedded.members.items() if name != self._config.host
        }
        told = await _lineages(others, self._config.api_port, session)
        newest = max(told.values(), default=0)
        if newest > self.known.number:
            await self._learn(newest, (name for name, number in told.items() if number == newest))

    @property
    def may_vote(self) -> bool:
        """Whether the member of this host may run."""
        return self._member is not None and not self.known.left_out

    def endpoints(self) -> list[str]:
        """The members to ask, this host's first where it takes part."""
        embedded = self._config.etcd.embedded
        if embedded is None:
            return list(self._config.etcd.endpoints)
        names = [name for name in sorted(embedded.members) if name != self._config.host]
        if self.known.members:
            names = [name for name in names if name in self.known.members]
        if not self.known.left_out:
            names.insert(0, self._config.host)
        return [f"http://{embedded.members[name]}:{embedded.client_port}" for name in names]

    async def begin(self, host: NodeContext, number: int) -> None:
        """This host's member has begun lineage `number`: remembered before any peer is told."""
        self.known = LocalLineage(number=number, members=(host.name,))
        await save(self._config.state_dir, self.known)

    async def keep(self, host: NodeContext, store: EtcdStore) -> None:
        """Tell the peers, and stand down when one of them tells of a newer lineage; never returns."""
        host.lineage = self.known.number
        host.mirror.require_lineage(self.known.number if self.known.left_out else 0)
        looks = 0
        while True:
            host.heartbeats.tell_lineage(0 if self.known.left_out else self.known.number)
            newest, hosts = host.heartbeats.newest_lineage()
            recorded = host.mirror.lineage
            if (
                host.mirror.synced.is_set()
                and recorded.number < self.known.number
                and not self.known.left_out
            ):
                await self._complete(host)
            if newest > self.known.number:
                await self._stand_down(host, store, newest, hosts)
            elif recorded.number > self.known.number:
                await self._stand_down(host, store, recorded.number, (recorded.host,))
            looks += 1
            if self.known.number and looks % MEMBERS_EVERY_LOOKS == 0:
                await self._follow_members(store)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _complete(self, host: NodeContext) -> None:
        """An earlier agent died between beginning a lineage and recording it: the record is owed."""
        record = Lineage(
            number=self.known.number, host=host.name, at=host.clock.wall(), reason="recorded after a restart"
        )
        with suppress(UnavailableError):
            await record_lineage(host.store, record)

    async def _follow_members(self, store: EtcdStore) -> None:
        """Who has re-joined may be asked again; who was left out may not."""
        try:
            names = sorted(one.name for one in await store.admin.members() if one.name)
        except UnavailableError:
            return
        if names and tuple(names) != self.known.members:
            self.known = self.known.with_(members=tuple(names))
            await save(self._config.state_dir, self.known)
            store.use_only(self.endpoints())

    async def _stand_down(
        self, host: NodeContext, store: EtcdStore, number: int, hosts: Iterable[str]
    ) -> None:
        before = self.known.number
        await self._learn(number, hosts)
        if self._member is not None and self.known.left_out:
            await self._member.stop()
        store.use_only(self.endpoints())
        host.mirror.require_lineage(number)
        host.lineage = number
        if self.known.left_out:
            await host.tell_of_node(
                "left-out",
                f"lineage {number} is in force; the etcd member here is of lineage {before} and was ended: "
                "run `hostagent rejoin` on this host, then restart its agent",
            )  # fmt: skip

    async def _learn(self, number: int, hosts: Iterable[str]) -> None:
        has_old_data = self._member is not None and self._member.has_data
        self.known = LocalLineage(number=number, left_out=has_old_data, members=tuple(sorted(hosts)))
        await save(self._config.state_dir, self.known)
        self._log.warning("a newer lineage is in force", lineage=number, left_out=has_old_data)


async def record_lineage(store: StateStore, record: Lineage) -> None:
    """Store it, unless one as high is there. Raises as StateStore.commit does."""
    present = await store.get(keys.LINEAGE)
    if present is None or Lineage.from_json(present.value).number < record.number:
        compare = Unchanged(keys.LINEAGE, present.mod_revision if present else 0)
        await store.commit([compare], [Put(keys.LINEAGE, record.to_json())])


async def go_on_alone(config: AgentConfig, by: str) -> str:
    """As `vdc promote replica --force` begins a lineage, for a host whose agent has seen no records since it
    started, and is stopped now. Raises VdcError; ConflictError while the agent runs.

    Nobody is promoted by this: afterwards the agent can read the records, and forcing a promotion is possible.
    """
    embedded = config.etcd.embedded
    if embedded is None:
        raise RefusedError("this host runs no etcd member of its own", code="etcd-external")
    if (config.state_dir / "api.sock").exists():
        raise ConflictError(
            "the agent runs", code="agent-runs", hint="stop it first, or: vdc promote replica --force"
        )
    member = EmbeddedMember(config.host, embedded, state_dir=config.state_dir, runtime=config.runtime)
    member.check_data()
    running = asyncio.create_task(member.run(), name="etcd")
    store = EtcdStore([member.endpoint])
    try:
        await member.running()  # else one that an agent left running would go on as it is
        await member.go_on_alone(lambda folder: _check_undecided(folder, config.host))
        present = await store.get(keys.LINEAGE)
        before = Lineage.from_json(present.value).number if present else 0
        number = max(before, load(config.state_dir).number) + 1
        await save(config.state_dir, LocalLineage(number=number, members=(config.host,)))
        left_out = tuple(sorted(embedded.members.keys() - {config.host}))
        await record_lineage(
            store,
            Lineage(
                number=number, host=config.host, left_out=left_out, by=by, at=SystemClock().wall(),
                reason="hostagent go-on-alone",
            ),
        )  # fmt: skip
    finally:
        await store.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return f"{config.host} goes on alone under lineage {number}; start its agent"


def _check_undecided(data_dir: Path, me: str) -> None:
    for found in (pair for entry in undecided(data_dir) for pair in pairs_in(entry)):
        if found.primary != me:
            raise RefusedError(
                f"{found.primary} asked at the last moment to go on with {found.name} under epoch {found.epoch}",
                code="decision-pending", hint=f"bring {found.primary} back",
            )  # fmt: skip


async def rejoin(config: AgentConfig, replaces: str = "") -> str:
    """Give this host's member up and announce a new one; what was done as a sentence. Raises VdcError.

    Data of an older lineage is put aside (`etcd.old`); any other data is refused.
    """
    if config.etcd.embedded is None:
        raise RefusedError(
            "this host runs no etcd member of its own", code="etcd-external",
            hint="etcd.endpoints names another cluster's",
        )  # fmt: skip
    known = load(config.state_dir)
    member = EmbeddedMember(
        config.host, config.etcd.embedded, state_dir=config.state_dir, runtime=config.runtime
    )
    await member.rejoin(replaces=replaces, discard=known.left_out)
    if known.left_out:
        await save(config.state_dir, known.with_(left_out=False))
    return f"{config.host} joins as a new etcd member when its agent starts"


async def _lineages(
    addresses: Mapping[str, str], port: int, session: aiohttp.ClientSession
) -> dict[str, int]:
    async def ask(address: str) -> int | None:
        client = ApiClient([f"http://{address}:{port}"], session=session, deadlines=Deadlines(last_s=ASK_S))
        try:
            async with asyncio.timeout(ASK_S):
                return (await client.health()).lineage
        except (VdcError, TimeoutError):
            return None

    answers = await asyncio.gather(*(ask(address) for address in addresses.values()))
    return {name: answer for name, answer in zip(addresses, answers, strict=True) if answer is not None}
