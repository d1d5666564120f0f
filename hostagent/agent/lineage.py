"""Which lineage this agent acts under, and standing down when a newer one is in force.

A human may have let another member go on alone (vdc.model.lineage). A host that comes back after that has a
member with old data and copies under old epochs. It must not vote again, whatever majority its old cluster
may still find; and it must look at the new records, where the ordinary rules end its stale copies.

Asked before the member starts (the other agents' API), and heard from then on (heartbeats, the records).

A lineage that begins here is decided by the mark beside the member's data (`EmbeddedMember.go_on_alone`), while
the member is down. All that follows is repeatable and is made good by whoever runs next, this agent or a later one:
`lineage.json` before the member runs or any peer is told, the record in the store as soon as the member serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import aiohttp
import structlog
from pydantic import ValidationError

from hostagent.config import AgentConfig
from hostagent.drivers.etcd import EmbeddedMember
from hostagent.drivers.etcd.argv import client_url
from hostagent.drivers.process import in_thread, write_atomically
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
FOUND = "found decided after a restart"
LOOK_EVERY_S = 0.2
MEMBERS_EVERY_LOOKS = 25


class LocalLineage(Record):
    """What this host remembers. `left_out`: its own member's data is of an older lineage."""

    number: int = 0
    left_out: bool = False
    members: tuple[str, ...] = ()  # hosts with a member of this lineage, as far as is known; empty: all
    begun: Lineage | None = None  # the record that the store has to have of it, where it began on this host

    def began_on(self, host: str) -> bool:
        """Whether it was this host's member that went on alone. An earlier version did not keep the record."""
        return not self.left_out and (self.begun is not None or self.members == (host,))


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
        self._saving = asyncio.Lock()
        self.known = load(config.state_dir)

    async def resume(self) -> None:
        """Take over what was decided here and not remembered: before the member starts, and anybody is told."""
        if self._member is not None:
            self.known = await taken_over(self._config, self._member)

    async def ask_before_voting(self, sessions: Callable[[], aiohttp.ClientSession]) -> None:
        """Ask every other agent once. Silence says nothing; a newer lineage keeps the member from running."""
        embedded = self._config.etcd.embedded
        if embedded is None or self._member is None:
            return
        others = embedded.members.keys() - {self._config.host}
        told = await _lineages(others, self._config.api_port, sessions())
        newest = max(told.values(), default=0)
        if newest > self.known.number:
            await self._learn(newest, (name for name, number in told.items() if number == newest))
        if self.known.left_out:
            await self._member.stop()  # an earlier agent may have left it running

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
        return [client_url(name, embedded) for name in names]

    async def begin(
        self, host: NodeContext, store: EtcdStore, record: Lineage, look: Callable[[Path], None]
    ) -> None:
        """Let this host's member go on alone and begin `record`; on return that is decided, whatever may crash.

        It is carried out by the member's `run`, and recorded by `keep`. `look` and the errors are those of
        `EmbeddedMember.go_on_alone`; also RefusedError where the data here is of an older lineage,
        ConflictError where a newer one has begun meanwhile. Cancelled: decided, or nothing was changed.
        """
        member = self._member
        assert member is not None
        if self.known.left_out:
            raise RefusedError(
                f"the data of the etcd member here is older than lineage {self.known.number}, which is in force",
                code="left-out", hint=f"bring back {' or '.join(self.known.members) or 'a host of it'}",
            )  # fmt: skip

        def check(data_dir: Path) -> None:
            self._check_is_newest(record.number)
            look(data_dir)

        async def remember() -> None:
            self._check_is_newest(record.number)
            host.lineage = record.number  # whatever is written from here on is of the new one
            following = LocalLineage(number=record.number, members=(host.name,), begun=record)
            self.known = following
            store.use_only(self.endpoints())  # the others may still find a majority, of the older one
            await self._remember(following)

        await member.go_on_alone(check, record.number, remember)

    def owes_record(self, host: NodeContext) -> bool:
        """Whether a lineage has begun here that the store does not tell of yet."""
        return self.known.began_on(host.name) and host.mirror.lineage.number < self.known.number

    async def keep(self, host: NodeContext, store: EtcdStore) -> None:
        """Tell the peers, and stand down when one of them tells of a newer lineage; never returns."""
        host.lineage = self.known.number
        host.mirror.require_lineage(self.known.number if self.known.left_out else 0)
        looks = 0
        while True:
            host.heartbeats.tell_lineage(0 if self.known.left_out else self.known.number)
            newest, hosts = host.heartbeats.newest_lineage()
            recorded = host.mirror.lineage
            is_owed = self.owes_record(host)
            if is_owed and host.mirror.synced.is_set():
                await self._complete(host)
            if newest > self.known.number:
                await self._stand_down(host, store, newest, hosts)
            elif recorded.number > self.known.number:
                await self._stand_down(host, store, recorded.number, (recorded.host,))
            looks += 1
            if self.known.number and not is_owed and looks % MEMBERS_EVERY_LOOKS == 0:
                await self._follow_members(store)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _complete(self, host: NodeContext) -> None:
        """Record the lineage that began here. Whoever asked for it may be gone, and an earlier agent too."""
        record = self.known.begun or begun(self._config, self.known.number, reason=FOUND).begun
        assert record is not None
        with suppress(UnavailableError):
            await record_lineage(host.store, record)
            host.store_heard_at_s = host.clock.boottime_s()

    async def _follow_members(self, store: EtcdStore) -> None:
        """Who has re-joined may be asked again; who was left out may not."""
        before = self.known
        try:
            names = sorted(one.name for one in await store.admin.members() if one.name)
        except UnavailableError:
            return
        # Where one has begun meanwhile these are members of an older one.
        is_current = self.known is before
        if is_current and names and tuple(names) != before.members:
            await self._remember(before.with_(members=tuple(names)))
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
        await self._remember(LocalLineage(number=number, left_out=has_old_data, members=tuple(sorted(hosts))))
        self._log.warning("a newer lineage is in force", lineage=number, left_out=has_old_data)

    async def _remember(self, known: LocalLineage) -> None:
        self.known = known
        async with self._saving:  # one after the other, so that the newest is what stays
            await save(self._config.state_dir, self.known)

    def _check_is_newest(self, number: int) -> None:
        if number <= self.known.number:
            raise ConflictError(
                f"lineage {self.known.number} has begun at the same time", code="lineage-raced"
            )


async def record_lineage(store: StateStore, record: Lineage) -> None:
    """Store it, unless one as high is there. Raises as StateStore.commit does."""
    present = await store.get(keys.LINEAGE)
    if present is None or Lineage.from_json(present.value).number < record.number:
        compare = Unchanged(keys.LINEAGE, present.mod_revision if present else 0)
        await store.commit([compare], [Put(keys.LINEAGE, record.to_json())])


async def taken_over(config: AgentConfig, member: EmbeddedMember) -> LocalLineage:
    """What is remembered here, and what was decided before whoever decided it could remember it."""
    known = load(config.state_dir)
    if member.lineage > known.number:
        known = begun(config, member.lineage, reason=FOUND)
        await save(config.state_dir, known)
    return known


def begun(config: AgentConfig, number: int, *, by: str = "", reason: str) -> LocalLineage:
    """A lineage that begins on this host, and leaves every other member out."""
    assert config.etcd.embedded is not None
    left_out = tuple(sorted(config.etcd.embedded.members.keys() - {config.host}))
    record = Lineage(
        number=number, host=config.host, left_out=left_out, by=by, at=SystemClock().wall(), reason=reason
    )
    return LocalLineage(number=number, members=(config.host,), begun=record)


async def _lineages(names: Iterable[str], port: int, session: aiohttp.ClientSession) -> dict[str, int]:
    async def ask(name: str) -> int | None:
        client = ApiClient([f"https://{name}:{port}"], session=session, deadlines=Deadlines(last_s=ASK_S))
        try:
            async with asyncio.timeout(ASK_S):
                return (await client.health()).lineage
        except (VdcError, TimeoutError):
            return None

    asked = sorted(names)
    answers = await asyncio.gather(*(ask(name) for name in asked))
    return {name: answer for name, answer in zip(asked, answers, strict=True) if answer is not None}
