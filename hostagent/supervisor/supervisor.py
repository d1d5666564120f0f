"""The loop of one Endophyte on one host: look, decide, act, tell; again whenever something happened.

Decisions come from `vdc.protection.decide` alone. An action that takes time runs as the one job of this
supervisor; a different decision cancels it first. Nothing here knows QEMU's commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import TypeVar

from hostagent.drivers.qemu.qmp import QmpError
from hostagent.supervisor import consent, credentials, jobs, secondary
from hostagent.supervisor.actions import act
from hostagent.supervisor.adoption import look_again, take_over_after_restart
from hostagent.supervisor.backups import Backups
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.ending import end_copy
from hostagent.supervisor.handover import AskPrimary, Handover, NetworkFollows, fence
from hostagent.supervisor.hanging import Hang
from hostagent.supervisor.host import HostContext
from hostagent.supervisor.program import ProgramWatch
from hostagent.supervisor.publisher import Publisher
from hostagent.supervisor.snapshotting import Snapshots
from hostagent.supervisor.verification import Freezer, Peer, comparing
from hostagent.supervisor.view import observed, snapshot
from hostagent.supervisor.waking import read_epoch_after_sleep
from vdc.api import models as wire
from vdc.api.models import Frozen, VerifyResult
from vdc.model.endophyte import CopyRole, CopyStage, Observed
from vdc.model.errors import BugError, ConflictError, FencedError, UnavailableError, VdcError
from vdc.model.event import Severity
from vdc.model.pair import Pair
from vdc.protection.decide import Decision, decide
from vdc.protection.events import Event
from vdc.protection.table import Action, State

T = TypeVar("T")
QUICK_TICK_S = 0.5  # while a stalled checkpoint or a panic has to be noticed
IDLE_TICK_S = 2.0
FIRST_RETRY_S = 1.0
MAX_RETRY_S = 60.0
BUSY_S = 2.0  # that a request waits for the job under way
_IN_LOCKSTEP = (CopyStage.ENTERING, CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP, CopyStage.READY)
_TOLD = {Event.PEER_LOST_UNDECIDED: "undecided", Event.ORPHANED: "orphaned"}  # holding, and why, is news


class Supervisor:
    """One per Endophyte that this host has, or should have, a copy of."""

    def __init__(self, host: HostContext, name: str) -> None:
        self.host = host
        self.name = name
        self._wakeup = asyncio.Event()
        self.copy = Copy(host, name, self.wake)
        self._job: asyncio.Task[None] | None = None
        self._job_action: Action | None = None
        self._job_leads_to: Collection[State] = ()
        self._sentence = ""
        self._error = ""
        self._failures = 0
        self._failed_action: Action | None = None
        self._retry_at_s = 0.0
        self._publisher = Publisher(host, name, self._observed)
        self._program = ProgramWatch(self.copy, self.wake)
        self._exclusive = asyncio.Lock()
        self._hang = Hang(self.copy)
        self.freezer = Freezer(self.copy)
        self.snapshots = Snapshots(self.copy, self.wake, self._exclusive)
        self.backups = Backups(self.copy, self.snapshots)

    def wake(self) -> None:
        """Something happened; decide again."""
        self._wakeup.set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing of this Endophyte is on this host and nothing should be."""
        pair = self.host.mirror.pair(self.name)
        has_part = pair is not None and self.host.name in pair.hosts
        has_work = self._job is not None and not self._job.done()
        return not has_part and not self.copy.has_files and not self.copy.is_alive and not has_work

    async def run(self) -> None:
        """Never returns; cancelling it leaves the guest alone (I8)."""
        beside = (
            asyncio.create_task(self._publisher.run(), name=f"{self.name} publisher"),
            asyncio.create_task(self._program.run(), name=f"{self.name} program"),
        )
        try:
            await self._look(take_over_after_restart)
            due_s = self.host.clock.boottime_s()
            while True:
                self._wakeup.clear()
                await read_epoch_after_sleep(self.host, self.name, due_s)
                tick = await self._guarded_pass()
                due_s = self.host.clock.boottime_s() + tick
                with suppress(TimeoutError):
                    async with asyncio.timeout(tick):
                        await self._wakeup.wait()
        finally:
            for task in beside:
                task.cancel()
            await self._cancel_job()
            await self.backups.close()
            await self.snapshots.close()
            await self.copy.close()

    async def _look(self, at: Callable[[Copy], Awaitable[None]]) -> None:
        """At an earlier agent's copy. What cannot be done about it now is done by the table, or by the next look."""
        try:
            await at(self.copy)
        except VdcError as error:
            self.host.log.warning("taking over is not complete", endophyte=self.name, why=str(error))

    async def _guarded_pass(self) -> float:
        """One pass; returns when to look again. Whatever it fails at, the guest keeps its supervisor."""
        try:
            await self._pass()
        except Exception as error:  # this task's boundary
            self.host.log.exception("a pass failed", endophyte=self.name, why=repr(error))
            return FIRST_RETRY_S
        return self._tick_s()

    def _observed(self) -> Observed:
        """What the others are told. While the store is lost, that is all that there is to say about an error."""
        return observed(self.copy, self._sentence, "" if self.host.is_store_lost else self._error)

    def _tick_s(self) -> float:
        """When to look again though nothing happened: sooner while silence and stalls matter."""
        return QUICK_TICK_S if self.copy.state.stage in _IN_LOCKSTEP else IDLE_TICK_S

    # ---- one pass

    async def _pass(self) -> None:
        if not self.host.mirror.is_readable(self.name):
            return  # neither gone nor as it was: nothing may be done until it can be read
        secondary.watch_for_crash(self.copy)
        await self._keep_session()
        if self.copy.is_unread:
            await self._look(look_again)
        await self.copy.trouble.look(self.copy)
        decision = decide(snapshot(self.copy, retry_due=self.host.clock.boottime_s() >= self._retry_at_s))
        if decision.sentence != self._sentence:
            self.host.log.info(
                decision.sentence, endophyte=self.name, rule=f"{decision.row.state}/{decision.row.event}"
            )
            self._sentence = decision.sentence
            if (code := _TOLD.get(decision.row.event)) is not None:
                await self.host.tell(
                    self.name, code, decision.sentence,
                    epoch=self.copy.state.epoch, severity=Severity.WARNING,
                )  # fmt: skip
        await self._dispatch(decision)
        self.copy.agent.look()
        self.snapshots.look()
        self._publisher.look()

    async def _dispatch(self, decision: Decision) -> None:
        action = decision.action
        is_busy = self._job is not None and not self._job.done()
        if action is Action.HOLD or (is_busy and jobs.is_same_work(action, self._job_action)):
            return
        if is_busy and self._job_action in jobs.UNDISTURBED:
            return
        if is_busy and self._is_own_doing(decision):
            return
        if is_busy and decision.row.state in self._job_leads_to and action not in jobs.INTERRUPTS:
            return  # it has done what it was for; what is left of it is told and noted
        if action is Action.NOTE:
            await self._note(decision)
            return
        if action is self._failed_action and self.host.clock.boottime_s() < self._retry_at_s:
            return
        await self._cancel_job()
        self._job_action, self._job_leads_to = action, jobs.leads_to(decision)
        self._job = asyncio.create_task(self._execute(decision), name=f"{self.name} {action}")

    def _is_own_doing(self, decision: Decision) -> bool:
        """Whether the running job does this already, or its commit is seen before it is done."""
        if self._job_action is Action.MARK:
            return decision.row.to is State.P_LOCKSTEP
        is_calling_off = self.copy.state.stage is CopyStage.LEAVING and self._job_action in jobs.CALLS_OFF
        return is_calling_off and decision.action in (Action.LEAVE, Action.GO_ALONE)

    async def _note(self, decision: Decision) -> None:
        await self._cancel_job()
        if decision.row.to is State.S_LOCKSTEP:
            await secondary.lockstep_noted(self.copy)
        elif decision.row.event is Event.DISK_FAILED or decision.row.to in (State.P_DEAD, State.S_DEAD):
            await end_copy(self.copy, decision.sentence, jobs.STAGES[decision.row.to])
        else:
            await self.copy.save(stage=jobs.STAGES[decision.row.to])

    async def _execute(self, decision: Decision) -> None:
        """Run one action to its end; whatever it fails at becomes a sentence and a later retry."""
        self._hang.begins(self._retry_at_s)
        try:
            await self.freezer.release()  # whatever is decided, it is not decided about a frozen process
            if decision.action in jobs.OVER_SNAPSHOTS:
                await self.snapshots.give_way()
            async with self._exclusive:
                if decision.action is Action.ENTER:
                    await self.snapshots.call_off()
                await act(self.copy, decision)
            self._failures, self._failed_action, self._error, self._retry_at_s = 0, None, "", 0.0
            self._hang.forget()
        except FencedError as error:
            self.host.log.info("somebody else was faster", endophyte=self.name, why=str(error))
        except VdcError as error:
            await self._failed(decision.action, error)
        except Exception as error:  # a task's boundary: a defect in one job must not end the supervisor
            self.host.log.exception("defect", endophyte=self.name, action=decision.action)
            await self._failed(decision.action, BugError(f"{type(error).__name__}: {error}"))
        finally:
            self.wake()

    async def _failed(self, action: Action, error: VdcError) -> None:
        self._failures = self._failures + 1 if action is self._failed_action else 1
        self._failed_action = action
        pause = min(MAX_RETRY_S, FIRST_RETRY_S * 2 ** min(self._failures - 1, 10))
        if isinstance(error, UnavailableError) and action in jobs.URGENT:
            pause = 0.05  # somebody waits for it: who may speak is open, or decided and not carried out
        if action is Action.ENTER and self.copy.state.stage is CopyStage.ENTERING:
            self.copy.mark_stage(CopyStage.LEAVING)
        self._retry_at_s = self.host.clock.boottime_s() + pause
        self._error = str(error)
        asyncio.get_running_loop().call_later(pause, self.wake)
        await self._hang.failed(error, is_stop_wanted=snapshot(self.copy, retry_due=False).is_stop_wanted)
        if action is Action.PREPARE:
            await secondary.failed(self.copy, error)
        elif action is Action.START:
            await self.copy.save(stage=CopyStage.FAILED)
            await self.host.tell(
                self.name, "start-failed", f"could not be started on {self.host.name}: {error}",
                epoch=self.copy.state.epoch, severity=Severity.WARNING,
            )  # fmt: skip
        else:
            self.host.log.warning(
                "an action failed", endophyte=self.name, action=action, why=str(error), retry_s=pause
            )

    async def _cancel_job(self) -> None:
        if self._job is not None and not self._job.done():
            self._job.cancel()
            await asyncio.gather(self._job, return_exceptions=True)
            if self._job_action is Action.ENTER and self.copy.state.stage is CopyStage.ENTERING:
                self.copy.mark_stage(CopyStage.LEAVING)  # nobody copies any more: the table finishes it
        self._job, self._job_action, self._job_leads_to = None, None, ()

    async def _keep_session(self) -> None:
        """Connect again to a QEMU that lives; without a session its events would go unheard."""
        is_busy = self._job is not None and not self._job.done()
        if is_busy or not self.copy.needs_session:
            return
        try:
            await self.copy.reconnect()
        except QmpError as error:
            self.host.log.warning("QEMU does not answer", endophyte=self.name, why=str(error))

    # ---- what the API asks for

    async def keep_consent(self, tables: Collection[str]) -> str:
        """See consent.keep; not while a job is at it."""
        if self._exclusive.locked():
            return ""
        async with self._exclusive:
            return await consent.keep(self.copy, tables)

    async def promote_planned(self, reason: str, ask_primary: AskPrimary, follows: NetworkFollows) -> Pair:
        """Take over from a healthy primary: it stops speaking first, then the epoch is won, then this one speaks.

        Returns as soon as it speaks. Until the commit any decision of the table takes this job's place.
        """
        await self._last_job()
        pair = self._as_its_secondary()
        spoken: asyncio.Future[Pair] = asyncio.get_running_loop().create_future()

        async def work() -> Pair:
            async with Handover(self.copy, pair, follows) as switch:
                await switch.prepare(ask_primary)
                self._job_action = Action.PROMOTE
                return await secondary.promote(
                    self.copy, pair, reason, switch=switch, spoken=spoken.set_result
                )

        job = asyncio.create_task(
            self._as_job(Action.HOLD, "promotion", work), name=f"{self.name} planned promotion"
        )
        job.add_done_callback(lambda done: done.cancelled() or done.exception())  # told by the log as well
        await asyncio.wait({job, spoken}, return_when=asyncio.FIRST_COMPLETED)
        return spoken.result() if spoken.done() else await job

    async def promote_forced(self, reason: str) -> Pair:
        """Take over without asking the primary: a human says that it is off."""
        await self._last_job()
        pair = self._as_its_secondary()
        return await self._as_job(
            Action.PROMOTE, "forced promotion", lambda: secondary.promote(self.copy, pair, reason)
        )

    def _as_its_secondary(self) -> Pair:
        """The record, which names this host the secondary. Raises ConflictError where it does not."""
        pair = self.host.mirror.pair(self.name)
        if pair is None or pair.secondary != self.host.name:
            epoch = pair.epoch if pair else 0
            raise ConflictError(
                f"{self.host.name} is not the secondary of {self.name} under epoch {epoch}",
                code="not-secondary",
            )
        return pair

    async def verify(self, peer: Peer, *, dry_run: bool) -> VerifyResult:
        """Compare both copies, as the primary; one that differs is given up, so that a fresh one is made."""

        def as_departure() -> None:
            self._job_action = Action.GO_ALONE

        await self._last_job()
        work = comparing(self.copy, peer, dry_run=dry_run, as_departure=as_departure)
        return await self._as_job(Action.HOLD, "comparison", work)

    async def freeze(self, epoch: int) -> Frozen:
        """Freeze this host's secondary at a checkpoint. Refused where `epoch` is not the present one."""
        state = self.copy.state
        if (state.role, state.stage, state.epoch) != (CopyRole.SECONDARY, CopyStage.LOCKSTEP, epoch):
            raise ConflictError(
                f"{self.host.name} is not the secondary of {self.name} in lockstep under epoch {epoch}",
                code="not-secondary",
            )
        return await self.freezer.freeze()

    async def _last_job(self) -> None:
        """Wait a moment for what is under way: a VM is seen in lockstep before the job that made it so has ended."""
        if self._job is not None:
            await asyncio.wait({self._job}, timeout=BUSY_S)

    async def _as_job(self, action: Action, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do what the API asks for as the one job of this supervisor; another decision cancels it."""
        pair = self.host.mirror.pair(self.name)
        epoch = pair.epoch if pair else 0
        if self._job is not None and not self._job.done():
            raise ConflictError(
                f"{self.name} is busy under epoch {epoch}: {self._job.get_name().removeprefix(self.name).strip()}",
                code="busy",
                hint="try again in a moment",
            )
        if self.copy.trouble.here:
            raise ConflictError(f"the disk on {self.host.name} failed", code="disk-failed")
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        async def job() -> None:
            try:
                async with self._exclusive:
                    result.set_result(await work())
            except BaseException as error:
                if not result.done():
                    result.set_exception(
                        error
                        if isinstance(error, VdcError)
                        else ConflictError(
                            f"the {what} was interrupted: what {self.name} needs under epoch {epoch} came first",
                            code="overtaken",
                            hint=f"vdc describe endophyte {self.name}",
                        )
                    )
                if isinstance(error, asyncio.CancelledError):
                    raise
            finally:
                self.wake()

        self._job_action, self._job_leads_to = action, ()
        self._job = asyncio.create_task(job(), name=f"{self.name} {what}")
        return await asyncio.shield(result)

    async def quiesce(self, epoch: int) -> None:
        """Let the guest speak no more, for a planned promotion. Refused where `epoch` is not the present one."""
        self._require_epoch(epoch)
        await fence(self.copy, epoch)

    async def sign_credentials(self, request: wire.CredentialsRequest) -> wire.Credentials:
        """A certificate for this pair's secondary; see credentials.sign."""
        self._require_epoch(request.epoch)
        return await credentials.sign(self.copy, self.host.mirror.pair(self.name), request)

    def _require_epoch(self, epoch: int) -> None:
        pair = self.host.mirror.pair(self.name)
        present = max(self.copy.state.epoch, pair.epoch if pair else 0)
        if epoch < present:
            raise FencedError(
                f"{self.name} is at epoch {present}; a request of epoch {epoch} has no effect any more"
            )
        if self.copy.state.role is not CopyRole.PRIMARY or self.copy.state.epoch != epoch:
            raise ConflictError(
                f"{self.host.name} is not the primary of {self.name} under epoch {epoch}", code="not-primary"
            )
