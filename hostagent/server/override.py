"""`vdc promote replica NAME --force`: a human decides what the cluster cannot.

Two cases. A majority answers, and the promotion did not happen by itself: then this is a promotion without the
primary's consent. Or the majority is lost for good: then this host's etcd member goes on alone with its data, a
new lineage begins, and the promotion is an ordinary compare-and-swap under it; the guest keeps its memory and
its sessions. Every other replica here whose primary is silent is promoted by the ordinary rules as well.

Danger: the human asserts that the primary's host, and every host with a lost member, is off and stays off. What
can be checked is checked: that none of them is heard, that the gate of a primary that lives after all has closed
for good, that nothing in the member's log tells of a decision that it has not heard of.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import ValidationError

from hostagent.drivers.etcd import EmbeddedMember
from hostagent.drivers.etcd.wal import undecided
from hostagent.server import views
from hostagent.supervisor.arbiter import swap_pair
from hostagent.supervisor.node import NodeContext
from hostagent.supervisor.supervisor import Supervisor
from vdc.api import models as wire
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import (
    BugError,
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
from vdc.store.protocol import Put, StoreUnavailableError, Unchanged

SILENCE_MARGIN_MS = 2_000.0  # beyond the time after which an isolated primary has paused itself
TAKE_OVER_S = 15.0
ASK_STORE_S = 1.0


class Override:
    """One per agent. Only one override at a time."""

    def __init__(
        self,
        host: NodeContext,
        store: EtcdStore,
        member: EmbeddedMember | None,
        begin: Callable[[NodeContext, int], Awaitable[None]],
        find: Callable[[str], Supervisor],
    ) -> None:
        """`begin` remembers durably that this host's member begins a lineage."""
        self._host = host
        self._store = store
        self._member = member
        self._begin = begin
        self._find = find
        self._one = asyncio.Lock()

    async def promote(self, name: str, body: wire.PromoteRequest) -> wire.PromoteResult:
        """Carry it out on this host, which must be the secondary's.

        Raises InvalidError without confirmation, RefusedError with the reason why not even by force,
        ConflictError where the pair has moved on, UnavailableError where it takes too long.
        """
        if body.confirm != name:
            raise InvalidError(
                f"forcing a promotion needs the VM's name once more, as confirmation: {name}",
                code="confirm-missing", hint=f"vdc promote replica {name} --force --confirm {name}",
            )  # fmt: skip
        async with self._one:
            return await self._promote(name, body)

    async def _promote(self, name: str, body: wire.PromoteRequest) -> wire.PromoteResult:
        host, clock = self._host, self._host.clock
        await views.find_endophyte(host.mirror, name)
        before = host.mirror.pair(name)
        if before is None or host.name not in before.hosts:
            raise ConflictError(f"{host.name} has no copy of {name}", code="no-copy")
        is_primary = before.primary == host.name
        other = before.secondary if is_primary else before.primary
        supervisor = self._find(name)
        if not is_primary:
            await self._check_copy(supervisor, before)
        if other is not None:
            self._check_silent(other)
        began = clock.boottime_s()
        is_new_lineage = not await self._store_answers()
        if is_new_lineage:
            if other is not None:
                await self._wait_until_isolated(other)
            await self._begin_lineage(name, body.by)
        elif is_primary:
            raise ConflictError(
                f"a majority answers, and {name} is {host.name}'s: there is nothing to force",
                code="already-primary",
            )  # fmt: skip
        after = await self._take_over(supervisor, before)
        what = f"lineage {host.lineage} begins" if is_new_lineage else "a majority was there"
        sentence = (
            f"forced by {body.by or 'somebody'}: {name} goes on on {after.primary}, epoch {after.epoch}; {what}; "
            f"it was asserted that {other or 'every lost host'} is off and stays off"
        )
        await host.tell(
            name, "forced-promotion", sentence, epoch=after.epoch, severity=Severity.WARNING,
            lineage=float(after.lineage),
        )  # fmt: skip
        return wire.PromoteResult(
            name=name, epoch=after.epoch, primary=after.primary, previous=before.primary, lineage=host.lineage,
            total_ms=round((clock.boottime_s() - began) * 1000, 1), sentence=sentence,
        )  # fmt: skip

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
        while (silent := min(host.heartbeats.silent_ms(primary, one) for one in networks)) < need_ms:  # type: ignore[arg-type]
            self._check_silent(primary)
            await asyncio.sleep((need_ms - silent) / 1000 + 0.05)
        self._check_silent(primary)

    # ---- what is done

    async def _begin_lineage(self, name: str, by: str) -> None:
        host, member = self._host, self._member
        if member is None:
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
        number = max(host.lineage, host.mirror.lineage.number, *_lineages(host)) + 1
        host.log.warning("this host's etcd member goes on alone", lineage=number, left_out=others, by=by)
        former, host.lineage = host.lineage, number  # whatever is written from here on is of the new one
        try:
            await member.go_on_alone(self._check_log)
        except BaseException:
            host.lineage = former
            raise
        await self._begin(host, number)
        self._store.use_only([member.endpoint])
        record = Lineage(
            number=number, host=host.name, left_out=tuple(others), by=by, at=host.clock.wall(),
            reason=f"vdc promote replica {name} --force",
        )  # fmt: skip
        present = await host.store.get(keys.LINEAGE)
        compare = Unchanged(keys.LINEAGE, present.mod_revision if present else 0)
        if not (await host.store.commit([compare], [Put(keys.LINEAGE, record.to_json())])).succeeded:
            raise ConflictError("another lineage has begun at the same time", code="lineage-raced")
        host.store_heard_at_s = host.clock.boottime_s()

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
        try:
            entries = undecided(data_dir)
        except (OSError, ValueError) as error:
            raise BugError(f"etcd's log cannot be read: {error}") from error
        for found in (pair for entry in entries for pair in pairs_in(entry)):
            present = self._host.mirror.pair(found.name)
            if found.primary != self._host.name and present is not None and found.epoch > present.epoch:
                raise RefusedError(
                    f"{found.primary} asked at the last moment to go on with {found.name} under epoch "
                    f"{found.epoch}, and may have been allowed to: the copy here may be older",
                    code="decision-pending", hint=f"bring {found.primary} back",
                )  # fmt: skip

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


def _lineages(host: NodeContext) -> list[int]:
    return [found.value.lineage for found in host.mirror.pairs.values()] or [0]


def pairs_in(entry: bytes) -> list[Pair]:
    """The arbitration records that a raft entry would write."""
    text = entry.decode("utf-8", "replace")
    if keys.PAIRS not in text:
        return []
    decoder, found, at = json.JSONDecoder(), [], text.find("{")
    while at >= 0:
        try:
            document, end = decoder.raw_decode(text, at)
            found.append(Pair.model_validate(document))
            at = text.find("{", end)
        except (ValueError, ValidationError):
            at = text.find("{", at + 1)
    return found
