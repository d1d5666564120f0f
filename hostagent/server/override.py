"""`vdc promote replica NAME --force`: a human decides what the cluster cannot.

Two cases. A majority answers, and the promotion did not happen by itself: then this is a promotion without the
primary's consent. Or the majority is lost for good: then this host's etcd member goes on alone with its data, a
new lineage begins, and the promotion is an ordinary compare-and-swap under it; the guest keeps its memory and
its sessions. Every other replica here whose primary is silent is promoted by the ordinary rules as well.

Until everything has been checked the request can be cancelled. From then on it is carried out whether or not the
client is still there: half of it would be an etcd member alone under the old lineage. The same command again
joins what is going on, and finishes what an earlier agent has begun.

Danger: the human asserts that the primary's host, and every host with a lost member, is off and stays off. What
can be checked is checked: that none of them is heard, that the gate of a primary that lives after all has closed
for good, that nothing in the member's log tells of a decision that it has not heard of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hostagent.drivers.etcd import EmbeddedMember
from hostagent.server import views
from hostagent.server.undecided import asked_for, may_be_granted
from hostagent.supervisor.arbiter import swap_pair
from hostagent.supervisor.node import NodeContext
from hostagent.supervisor.supervisor import Supervisor
from vdc.api import models as wire
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import (
    ConflictError,
    FencedError,
    InvalidError,
    RefusedError,
    UnavailableError,
)
from vdc.model.event import Severity
from vdc.model.lineage import Lineage
from vdc.model.pair import Pair, SyncState
from vdc.protection.arbitration import promote_secondary
from vdc.store import keys
from vdc.store.etcd import EtcdStore
from vdc.store.protocol import StoreUnavailableError

SILENCE_MARGIN_MS = 2_000.0  # beyond the time after which an isolated primary has paused itself
ALONE_S = 20.0
RECORD_S = 10.0
TAKE_OVER_S = 15.0
ASK_STORE_S = 1.0
_POLL_S = 0.05


class Lineages(Protocol):
    """Who keeps this host's lineage (hostagent.agent.lineage)."""

    async def begin(
        self, host: NodeContext, store: EtcdStore, record: Lineage, look: Callable[[Path], None]
    ) -> None:
        """Decide, durably, that this host's member begins it; `look` may refuse when it has seen the log."""
        ...

    def owes_record(self, host: NodeContext) -> bool:
        """Whether a lineage has begun here that the store does not tell of yet."""
        ...


@dataclass(frozen=True, slots=True)
class _Order:
    """What was checked and is carried out now. `record`: the lineage that has to be begun for it."""

    supervisor: Supervisor
    before: Pair
    by: str
    began_s: float
    is_new_lineage: bool
    record: Lineage | None

    @property
    def other(self) -> str | None:
        """The host that is asserted to be off."""
        return (
            self.before.secondary if self.before.primary == self.supervisor.host.name else self.before.primary
        )


class Override:
    """One per agent. Only one override at a time."""

    def __init__(
        self,
        host: NodeContext,
        store: EtcdStore,
        member: EmbeddedMember | None,
        lineages: Lineages,
        find: Callable[[str], Supervisor],
    ) -> None:
        self._host = host
        self._store = store
        self._member = member
        self._lineages = lineages
        self._find = find
        self._one = asyncio.Lock()
        self._work: asyncio.Task[wire.PromoteResult] | None = None
        self.doing = ""  # a few words for whoever watches

    async def promote(self, name: str, body: wire.PromoteRequest, by: str) -> wire.PromoteResult:
        """Carry it out on this host, which must be the secondary's. `by`: who asserts it, for the record.

        Raises InvalidError without confirmation, RefusedError with the reason why not even by force,
        ConflictError where the pair has moved on, UnavailableError where it takes too long.
        """
        if body.confirm != name:
            raise InvalidError(
                f"forcing a promotion needs the VM's name once more, as confirmation: {name}",
                code="confirm-missing", hint=f"vdc promote replica {name} --force --confirm {name}",
            )  # fmt: skip
        async with self._one:
            work = self._work
            if work is not None and not work.done():  # whoever asked for it has gone
                if work.get_name() == _title(name):
                    return await asyncio.shield(work)
                await asyncio.wait([work])
            try:
                order = await self._checked(name, by)
            finally:
                self.doing = ""
            self._work = asyncio.create_task(self._carry_out(order), name=_title(name))
            self._work.add_done_callback(self._ended)
            return await asyncio.shield(self._work)

    async def _checked(self, name: str, by: str) -> _Order:
        """Nothing is changed by this, and it may be cancelled."""
        host = self._host
        await views.find_endophyte(host.mirror, name)
        before = host.mirror.pair(name)
        if before is None or host.name not in before.hosts:
            raise ConflictError(f"{host.name} has no copy of {name}", code="no-copy")
        is_primary = before.primary == host.name
        order = _Order(
            supervisor=self._find(name), before=before, by=by, began_s=host.clock.boottime_s(),
            is_new_lineage=False, record=None,
        )  # fmt: skip
        if not is_primary:
            await self._check_copy(order.supervisor, before)
        if order.other is not None:
            self._check_silent(order.other)
        is_owed = self._lineages.owes_record(host)
        is_going = is_owed and self._member is not None and await self._member.is_going_alone()
        if is_going or await self._store_answers():
            if is_owed:  # it has begun already; that the store answers says nothing about a majority
                return replace(order, is_new_lineage=True)
            if is_primary:
                raise ConflictError(
                    f"a majority answers, and {name} is {host.name}'s under epoch {before.epoch}"
                    f"{_lineage_text(host.lineage)}: there is nothing to force",
                    code="already-primary",
                )  # fmt: skip
            return order
        if order.other is not None:
            await self._wait_until_isolated(order.other)
        return replace(order, is_new_lineage=True, record=await self._new_lineage(name, by))

    async def _carry_out(self, order: _Order) -> wire.PromoteResult:
        host, before, name = self._host, order.before, order.before.name
        if order.record is not None:
            await self._begin_lineage(order.record)
        if order.is_new_lineage:
            await self._until_recorded()
        self.doing = f"promoting {name}"
        after = await self._take_over(order.supervisor, before)
        what = f"lineage {host.lineage} begins" if order.is_new_lineage else "a majority was there"
        sentence = (
            f"forced by {order.by}: {name} goes on on {after.primary}, epoch {after.epoch}; {what}; "
            f"it was asserted that {order.other or 'every lost host'} is off and stays off"
        )
        await host.tell(
            name, "forced-promotion", sentence, epoch=after.epoch, severity=Severity.WARNING,
            lineage=float(after.lineage),
        )  # fmt: skip
        took_s = host.clock.boottime_s() - order.began_s
        return wire.PromoteResult(
            name=name, epoch=after.epoch, primary=after.primary, previous=before.primary, lineage=host.lineage,
            total_ms=round(took_s * 1000, 1), sentence=sentence,
        )  # fmt: skip

    def _ended(self, work: asyncio.Task[wire.PromoteResult]) -> None:
        self.doing = ""
        if not work.cancelled() and (error := work.exception()) is not None:  # perhaps nobody waits any more
            self._host.log.warning("a forced promotion has failed", what=work.get_name(), why=str(error))

    # ---- what must hold

    async def _check_copy(self, supervisor: Supervisor, pair: Pair) -> None:
        """A replica that was being filled is no disk and no memory: nothing can start from it (I7)."""
        copy = supervisor.copy
        record = None
        if pair.sync is SyncState.IN_SYNC and copy.state.epoch == pair.epoch:
            if (
                copy.is_alive
                and copy.state.role is CopyRole.SECONDARY
                and copy.state.stage is CopyStage.LOCKSTEP
            ):
                return
            record = await copy.disks.load()
        if record is None or not record.heads or record.uid != pair.uid:
            raise RefusedError(
                f"the replica of {pair.name} on {pair.secondary} is not complete ({pair.sync}), "
                "and no host that answers has another complete copy: there is nothing to start from",
                code="no-complete-copy", hint=f"bring {pair.primary} back: its disk is the only one",
            )  # fmt: skip

    def _check_silent(self, primary: str) -> None:
        if not self._host.heartbeats.is_silent(primary):
            raise RefusedError(
                f"{primary} answers: two copies could speak at once", code="primary-alive",
                hint="promote it as planned (without --force), or power that host off first",
            )  # fmt: skip

    async def _store_answers(self) -> bool:
        try:
            await self._host.store.get(keys.LEADER, deadline_s=ASK_STORE_S)
        except StoreUnavailableError:
            return False
        return True

    async def _wait_until_isolated(self, primary: str) -> None:
        """A primary that lives after all is gated, and pauses itself when it has heard nobody for a while."""
        host = self._host
        need_ms = host.config.timings.isolated_pause_ms + SILENCE_MARGIN_MS
        networks = ("management", "replication") if host.mirror.hosts[primary].value.replication_address else (
            "management",)  # fmt: skip
        self.doing = f"waiting until {primary} has been silent for {need_ms / 1000:.0f} s"
        while (silent := min(host.heartbeats.silent_ms(primary, one) for one in networks)) < need_ms:  # type: ignore[arg-type]
            self._check_silent(primary)
            await asyncio.sleep((need_ms - silent) / 1000 + 0.05)
        self._check_silent(primary)

    # ---- what is done

    async def _new_lineage(self, name: str, by: str) -> Lineage:
        """The record of the one that may begin here. Raises RefusedError where none may."""
        host = self._host
        if self._member is None:
            raise RefusedError(
                "the store is an etcd of your own; only its administrator can restore its majority",
                code="etcd-external", hint="etcd's documentation: disaster recovery",
            )  # fmt: skip
        others = await self._other_voters()
        if heard := [
            one for one in others if one in host.mirror.hosts and not host.heartbeats.is_silent(one)
        ]:
            raise RefusedError(
                f"no majority answers, but {', '.join(heard)} can be heard: it may decide with the others",
                code="member-alive", hint=f"start the agent of {heard[0]} again, or power that host off",
            )  # fmt: skip
        return Lineage(
            number=max(host.lineage, host.mirror.lineage.number, *_lineages(host)) + 1, host=host.name,
            left_out=tuple(others), by=by, at=host.clock.wall(),
            reason=f"vdc promote replica {name} --force",
        )  # fmt: skip

    async def _begin_lineage(self, record: Lineage) -> None:
        self._host.log.warning(
            "this host's etcd member goes on alone", lineage=record.number, left_out=record.left_out,
            by=record.by,
        )  # fmt: skip
        self.doing = "ending this host's etcd, and reading its log"
        await self._lineages.begin(self._host, self._store, record, self._check_log)

    async def _until_recorded(self) -> None:
        """The member serves, alone, and the store tells of the lineage. Both happen without this waiting for it."""
        host, member = self._host, self._member
        assert member is not None
        self.doing = f"lineage {host.lineage} is begun; waiting for this host's etcd to serve alone"
        try:
            await member.wait_healthy(ALONE_S)
        except UnavailableError as error:
            raise UnavailableError(
                f"lineage {host.lineage} is begun, and goes on as soon as it can; but {error}", code=error.code,
                hint=error.problem.hint,
            ) from error  # fmt: skip
        end = host.clock.boottime_s() + RECORD_S
        while self._lineages.owes_record(host):
            if host.clock.boottime_s() > end:
                raise UnavailableError(
                    f"lineage {host.lineage} is begun and was not recorded within {RECORD_S:.0f} s",
                    code="lineage-late", hint="it will be; see `vdc cluster status`, and ask again",
                )  # fmt: skip
            await asyncio.sleep(_POLL_S)

    async def _other_voters(self) -> list[str]:
        """Who else counts for a majority, as this host's member remembers it."""
        assert self._member is not None
        try:
            names = {one.name for one in await self._store.admin.members(deadline_s=ASK_STORE_S)}
        except StoreUnavailableError:
            names = set(self._member.config.members)
        return sorted(names - {self._host.name, ""})

    def _check_log(self, data_dir: Path) -> None:
        """Raise RefusedError where the log holds a change of who may speak that may have been granted."""
        for found in asked_for(data_dir):
            present = self._host.mirror.pair(found.name)
            if found.primary != self._host.name and present is not None and found.epoch > present.epoch:
                raise may_be_granted(found)

    async def _take_over(self, supervisor: Supervisor, before: Pair) -> Pair:
        """Let the ordinary promotion win, or make it; returns the record that names this host the primary."""
        host, name = self._host, before.name
        if before.secondary is None:
            return before
        end = host.clock.boottime_s() + TAKE_OVER_S
        while host.clock.boottime_s() < end:
            found = host.mirror.pair(name)
            if found is not None and found.epoch > before.epoch:
                if found.primary == host.name:
                    return found
                raise FencedError(f"{name} is at epoch {found.epoch} and its primary is {found.primary}")
            try:
                if before.primary == host.name:  # it asks for that itself, as soon as there is a majority
                    await asyncio.sleep(0.1)
                else:
                    await self._promote_now(supervisor, before)
            except (UnavailableError, ConflictError, FencedError) as error:
                host.log.info("the forced promotion is not done yet", endophyte=name, why=str(error))
                await asyncio.sleep(0.2)
        raise UnavailableError(
            f"{name} was not taken over within {TAKE_OVER_S:.0f} s", code="take-over-late",
            hint=f"vdc describe endophyte {name}",
        )  # fmt: skip

    async def _promote_now(self, supervisor: Supervisor, before: Pair) -> None:
        reason = f"promoted to {before.secondary} by force"
        if not supervisor.copy.is_alive:  # from its disk: the record first, the table starts it
            await swap_pair(
                supervisor.host, before.name, before.epoch,
                lambda p, r, now: promote_secondary(p, reason=reason, request_id=r, now=now),
            )  # fmt: skip
            return

        self._check_silent(before.primary)
        await supervisor.promote_forced(reason)


def _title(name: str) -> str:
    return f"{name} forced promotion"


def _lineage_text(number: int) -> str:
    return f", lineage {number}" if number else ""


def _lineages(host: NodeContext) -> list[int]:
    return [found.value.lineage for found in host.mirror.pairs.values()] or [0]
