"""What has to happen next so that a VM leaves a drained host, or comes to the host that it shall run on.

Pure, and asked anew in every pass: nothing is remembered of earlier answers, so it does not matter which leader
asks. The one way for a running guest from host to host is lockstep: a copy on the target, then a planned
promotion. Nothing here ever stops a guest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from vdc.model.endophyte import CopyRole, CopyStage, Endophyte, Observed, RunState
from vdc.model.errors import RefusedError
from vdc.model.host import Host
from vdc.model.maintenance import DrainItem, DrainState, DrainWay
from vdc.model.pair import Pair, SyncState
from vdc.protection.placement import Occupancy, as_started, choose_secondary
from vdc.protection.status import STOPPED_BY_DISK

_GONE = (CopyStage.ABSENT, CopyStage.DEAD, CopyStage.FAILED)


class Do(StrEnum):
    """What the leader does for one VM."""

    NOTHING = "nothing"  # no wish concerns it
    WAIT = "wait"  # what is under way has to end first
    COPY = "copy"  # a second copy has to be made on `to`
    PROMOTE = "promote"  # ask the secondary to take over from its healthy primary
    WITHDRAW = "withdraw"  # give the second copy up; protection begins again elsewhere
    RESPARE = "respare"  # hold other hosts ready
    REACHED = "reached"  # the move is over
    GIVE_UP = "give_up"  # the move cannot be made
    BLOCKED = "blocked"  # it cannot leave as things are
    STAY = "stay"  # it is stopped: its disk is where it is


@dataclass(frozen=True, slots=True)
class Step:
    """What to do, why, and with which host."""

    do: Do
    sentence: str = ""
    to: str | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """One VM and the cluster around it, at one moment."""

    endophyte: Endophyte
    pair: Pair
    copies: Mapping[str, Observed]  # by host, of this uid alone
    hosts: Mapping[str, Host]  # every known one
    alive: frozenset[str]
    drained: frozenset[str]
    occupancy: Callable[[], Occupancy]  # without this VM; added up where a place is looked for
    avoid: frozenset[str] = frozenset()  # failed as its secondary a moment ago

    @property
    def is_running_alone(self) -> bool:
        """Whether the primary runs under the record's epoch, so that a copy can be made."""
        primary, pair = self.copies.get(self.pair.primary), self.pair
        return (
            primary is not None
            and primary.role is CopyRole.PRIMARY
            and primary.stage is CopyStage.RUNNING
            and primary.epoch == pair.epoch
            and primary.qemu != STOPPED_BY_DISK
            and primary.restarts >= self.endophyte.restarts  # else it is about to be powered off
        )

    @property
    def is_in_lockstep(self) -> bool:
        """Whether record and both hosts say so."""
        stages = [copy.stage for host in self.pair.hosts if (copy := self.copies.get(host))]
        return self.pair.sync is SyncState.IN_SYNC and stages == [CopyStage.LOCKSTEP] * 2

    def place_for_copy(
        self,
        *,
        only: str | None = None,
        busy: frozenset[str] = frozenset(),
        older: Collection[str] = (),
        once_settled: bool = False,
    ) -> str:
        """The best host for a second copy: what is planned by it is what the controller does by it.

        `only`: where the VM shall move. `once_settled`: as if links that are settling had done so. Raises
        RefusedError with each host's reason.
        """
        wanted = self.alive if only is None else self.alive & {self.pair.primary, only}
        primary = self.copies.get(self.pair.primary)
        deaf = frozenset(primary.unreachable if primary else ())
        if primary is not None and once_settled:
            deaf -= frozenset(primary.settling)
        able = [
            as_started(host, primary.machine) if primary is not None and name == primary.host else host
            for name, host in self.hosts.items()
            if name in wanted
        ]
        return choose_secondary(
            self.endophyte, self.pair, able, self.occupancy(), avoid=self.avoid, unreachable=deaf,
            busy=busy, older=older,
        )  # fmt: skip

    def place_or_wait(self, *, only: str | None = None) -> str | Step:
        """The host for a second copy, or the wait for a link to one that settles. Raises RefusedError.

        Waiting ends by itself: the link settles within seconds, or counts as broken again.
        """
        try:
            return self.place_for_copy(only=only)
        except RefusedError:
            to = self.place_for_copy(only=only, once_settled=True)
        return Step(
            Do.WAIT, f"waits until {self.pair.primary} and {to} have heard each other for a while", to
        )


def step_for_move(s: Situation) -> Step:
    """Towards `endophyte.move`; NOTHING where there is none."""
    move, pair, run = s.endophyte.move, s.pair, s.endophyte.run
    if move is None:
        return Step(Do.NOTHING)
    if pair.primary == move.to:
        return Step(Do.REACHED, f"runs on {move.to} now", move.to)
    if move.drained is not None and (move.drained not in s.drained or pair.primary != move.drained):
        return Step(Do.REACHED, f"need not leave {move.drained} any more")
    if move.to not in s.hosts:
        return Step(Do.GIVE_UP, f"there is no host {move.to}")
    if move.to in s.drained or not s.hosts[move.to].schedulable:
        return Step(Do.GIVE_UP, f"{move.to} is drained")
    if run is not RunState.RUNNING:
        return Step(Do.GIVE_UP, f"it is {run.value}, and only a running guest moves")
    for host in (move.to, pair.primary):
        if host not in s.alive:
            return Step(Do.GIVE_UP, f"{host} does not answer")
    if pair.secondary == move.to:
        return _take_over(s)
    if pair.secondary is None and move.to in s.avoid:
        return Step(Do.GIVE_UP, f"the copy on {move.to} failed: {pair.reason}")
    try:
        to = s.place_or_wait(only=move.to)
    except RefusedError as refusal:
        return Step(Do.GIVE_UP, _why_not(refusal))
    if isinstance(to, Step):
        return to
    if pair.secondary is not None:
        return Step(Do.WITHDRAW, f"moving the replica to {move.to}", move.to)
    if s.is_running_alone:
        return Step(Do.COPY, f"a copy is made on {move.to}", move.to)
    return Step(Do.WAIT, f"waits until its primary on {pair.primary} runs", move.to)


def step_off(s: Situation, host: str) -> Step:
    """Off a drained host; NOTHING where the VM has no part on it."""
    pair = s.pair
    if pair.primary == host:
        return _primary_off(s)
    if pair.secondary == host:
        return _replica_off(s)
    if host in pair.spares:
        return Step(Do.RESPARE, "another host is held ready")
    old = s.copies.get(host)
    if host in s.alive and old is not None and old.stage not in _GONE:
        return Step(Do.WAIT, f"its old copy on {host} is being ended")
    return Step(Do.NOTHING)


def _take_over(s: Situation) -> Step:
    secondary = s.pair.secondary
    if secondary not in s.alive:
        return Step(Do.WAIT, f"{secondary} does not answer", secondary)
    if s.is_in_lockstep:
        return Step(Do.PROMOTE, f"its replica on {secondary} takes over", secondary)
    if s.pair.sync is SyncState.IN_SYNC:
        return Step(
            Do.WAIT, f"waits until both copies say that they are in lockstep with {secondary}", secondary
        )
    primary = s.copies.get(s.pair.primary)
    share = f" ({primary.progress:.0%})" if primary is not None and primary.progress is not None else ""
    return Step(Do.WAIT, f"is copied to {secondary}{share}", secondary)


def _primary_off(s: Situation) -> Step:
    pair, endophyte = s.pair, s.endophyte
    primary = s.copies.get(pair.primary)
    if endophyte.deleting:
        return Step(Do.WAIT, "is being deleted")
    if pair.primary not in s.alive:
        if pair.sync is SyncState.IN_SYNC:
            return Step(Do.WAIT, f"{pair.primary} does not answer; {pair.secondary} takes over if it is gone")
        return Step(Do.BLOCKED, f"{pair.primary} does not answer; it is not known whether the guest runs")
    if endophyte.run is RunState.STOPPED:
        if primary is None or primary.stage in (CopyStage.ABSENT, CopyStage.DEAD):
            return Step(Do.STAY, f"is stopped; its disks stay on {pair.primary}")
        return Step(Do.WAIT, "is stopping")
    if endophyte.run is RunState.PAUSED:
        return Step(Do.BLOCKED, "is paused, and only a running guest moves: vdc start, or vdc stop")
    if pair.secondary is not None and pair.secondary not in s.drained:
        return _take_over(s)
    if pair.secondary is None and primary is not None and primary.stage is CopyStage.FAILED:
        return Step(Do.BLOCKED, f"could not be started on {pair.primary}")
    try:
        to = s.place_or_wait()
    except RefusedError as refusal:
        return Step(Do.BLOCKED, _why_not(refusal))
    if isinstance(to, Step):
        return to
    if pair.secondary is not None:
        return Step(Do.WITHDRAW, f"its replica on {pair.secondary}, which is drained too, moves to {to}", to)
    if s.is_running_alone:
        return Step(Do.COPY, f"a copy is made on {to}", to)
    return Step(Do.WAIT, f"waits until its primary on {pair.primary} runs", to)


def _replica_off(s: Situation) -> Step:
    pair = s.pair
    if s.endophyte.deleting or not s.endophyte.wants_secondary:
        return Step(Do.WAIT, "its replica is being given up")
    if pair.primary not in s.alive:
        return Step(Do.WAIT, f"{pair.primary} does not answer; the replica may be the only copy")
    try:
        to = s.place_or_wait()
    except RefusedError as refusal:
        if pair.primary in s.drained:
            return Step(Do.BLOCKED, f"its primary's host {pair.primary} is drained too: {_why_not(refusal)}")
        return Step(Do.WITHDRAW, f"its replica is given up, it goes on unprotected: {_why_not(refusal)}")
    if isinstance(to, Step):
        return to
    return Step(Do.WITHDRAW, f"its replica moves to {to}", to)


def _why_not(refusal: RefusedError) -> str:
    return str(refusal)


def drain_item(s: Situation, host: str, *, may_stay: bool) -> DrainItem | None:
    """The step off `host` as people read it; None where the VM has no part on it (any more)."""
    move = s.endophyte.move
    step = step_off(s, host)
    if step.do is Do.NOTHING:
        return None
    if move is not None and s.pair.primary == host:
        towards = step_for_move(s)
        step = towards if towards.do not in (Do.REACHED, Do.GIVE_UP) else step
    state = {
        Do.BLOCKED: DrainState.BLOCKED,
        Do.STAY: DrainState.STAYS if may_stay else DrainState.BLOCKED,
    }.get(step.do, DrainState.WAITING)
    if state is DrainState.WAITING and _is_on_its_way(s, host):
        state = DrainState.RUNNING
    sentence = step.sentence
    if state is DrainState.WAITING and not sentence.startswith("waits") and s.endophyte.move_problem:
        sentence = f"{sentence} (last attempt: {s.endophyte.move_problem})"
    return DrainItem(name=s.endophyte.name, way=_way(s, host), state=state, to=step.to, sentence=sentence)


def _is_on_its_way(s: Situation, host: str) -> bool:
    move = s.endophyte.move
    is_copied = s.pair.primary == host and s.pair.secondary is not None and not s.is_in_lockstep
    return is_copied or (move is not None and s.pair.primary == host)


def _way(s: Situation, host: str) -> DrainWay:
    if host == s.pair.secondary:
        return DrainWay.REPLICA
    if host in s.pair.spares:
        return DrainWay.SPARE
    if host != s.pair.primary:
        return DrainWay.NONE
    if s.endophyte.run is not RunState.RUNNING:
        return DrainWay.DISK if s.endophyte.run is RunState.STOPPED else DrainWay.NONE
    return DrainWay.PROMOTION if s.endophyte.wants_protection else DrainWay.MIGRATION
