"""A planned switch without a lost packet: both copies are healthy, and the cut is a checkpoint.

    P  fence    forces a checkpoint, then nothing of this guest reaches its tap; what comes in is still mirrored
    S  Hold     within that checkpoint a filter-buffer is put in front of S's outgoing filter
    --          the arbitration
    S  open     the buffer's packets, and all later ones, leave by S's tap
    S  leave    S leaves lockstep; P's mirror is still listened to, until nobody sends to P any more

Why nothing is lost: a checkpoint releases everything that P's guest has sent, and S's guest goes on from exactly
there. What S sends from then on waits in the buffer, so P has no consent for anything more, and no difference
between the copies can be found. What comes in reaches S through P until the network points to S.

Why nobody speaks twice: until `open` S's packets are in the buffer or in the filter behind it, and its bridge port
is locked. P is fenced before the arbitration begins. A checkpoint after the one that was meant would set S back
behind what it has in the buffer: `Hold.is_clean` tells, the buffer is thrown away then, and
`secondary.cut` ends the channel on which one could come.

Should the agents die in the middle: the fence is taken away by the primary's agent (a timer, or the next agent),
the buffer empties itself into lockstep's filter every `HOLD_S` until the secondary's next agent takes it out, and the
gate is what it always was. Answers are late meanwhile, or wait for that agent.

Measured: a guest's TCP packet that arrives while the guest stands still stays in QEMU's filter-rewriter until the
next one passes. `drivers.net.nudge` sends one that no guest gets to see.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from hostagent.drivers.qemu.argv import netdev_id
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpError, QmpSession, QmpTimeoutError
from hostagent.drivers.qemu.steps import attempt, objects, poll, remove_objects, run_state

HOLD_S: Final = 1.0  # the buffer lets go by itself; nothing that relies on it may take longer
FENCE_DEADLINE_S: Final = 1.0
_NO_CHECKPOINT_MS: Final = 600_000  # no periodic one during the switch
_TURNS: Final = 4  # of QEMU's main loop, in which what a checkpoint released goes out and a second one begins


class CheckpointWatch:
    """Counts STOP and RESUME of a session for as long as it is open."""

    def __init__(self, qmp: QmpSession) -> None:
        self.stops = self.resumes = 0
        self._is_stopped = False
        self._news = asyncio.Event()
        self._remove = qmp.add_listener(self._on_event)

    def close(self) -> None:
        """Listen no more."""
        self._remove()

    def _on_event(self, event: str, _data: dict[str, Any], _at_s: float) -> None:
        if event == "STOP":
            self.stops, self._is_stopped = self.stops + 1, True
        elif event == "RESUME" and self._is_stopped:  # not the end of one that began before the watch
            self.resumes, self._is_stopped = self.resumes + 1, False
        else:
            return
        self._news.set()

    def is_under_way(self) -> bool:
        """Whether a checkpoint has begun and not ended."""
        return self._is_stopped

    async def news(self) -> None:
        """Wait for the next STOP or RESUME."""
        self._news.clear()
        await self._news.wait()


# ---- the primary


async def fence(qmp: QmpSession, plan: LockstepPlan) -> None:
    """Force a checkpoint and let nothing of this guest out after it. Raises QmpTimeoutError, unfenced then.

    May be repeated: what an earlier fence holds back is let out before the next checkpoint.
    """
    watch = CheckpointWatch(qmp)
    try:
        async with asyncio.timeout(FENCE_DEADLINE_S):
            await _set_output(qmp, plan, is_on=True)
            await _between_checkpoints(qmp, watch)
            seen = watch.resumes
            await _checkpoint_every(qmp, _NO_CHECKPOINT_MS)  # setting it asks for one at once
            while True:
                while watch.resumes == seen or watch.is_under_way():
                    await watch.news()
                for _ in range(_TURNS):  # not a time: on a busy machine they take longer
                    await run_state(qmp)
                if watch.is_under_way():
                    continue
                stops = watch.stops
                await _set_output(qmp, plan, is_on=False)
                if watch.stops == stops:
                    return
                await _set_output(qmp, plan, is_on=True)
    except BaseException as error:
        with contextlib.suppress(QmpError):
            await asyncio.shield(unfence(qmp, plan))
        if isinstance(error, TimeoutError):
            raise QmpTimeoutError(f"no checkpoint within {FENCE_DEADLINE_S:g} s") from error
        raise
    finally:
        watch.close()


async def unfence(qmp: QmpSession, plan: LockstepPlan) -> None:
    """Back to ordinary lockstep. Idempotent; harmless where the lockstep has been left."""
    await _checkpoint_every(
        qmp, plan.checkpoint_ms
    )  # first: its packets open the kernel's gate, if that has closed
    await _set_output(qmp, plan, is_on=True)


async def is_fenced(qmp: QmpSession, plan: LockstepPlan) -> bool:
    """Whether an earlier agent has left the fence up."""
    present = await objects(qmp)
    for name in (plan.inbound_filter(j) for j in range(plan.nics)):
        if name in present and await qmp.execute(Command.QOM_GET, _status(name)) == "off":
            return True
    return False


async def _between_checkpoints(qmp: QmpSession, watch: CheckpointWatch) -> None:
    """One that is under way might swallow the request for the next."""
    while await run_state(qmp) != "running":
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await watch.news()


async def _set_output(qmp: QmpSession, plan: LockstepPlan, *, is_on: bool) -> None:
    """Switch the filters through which everything of the guest reaches its taps; packets wait, none is lost."""
    for j in range(plan.nics):
        arguments = {**_status(plan.inbound_filter(j)), "value": "on" if is_on else "off"}
        await attempt(qmp, Command.QOM_SET, arguments)  # refused where the lockstep has been left


def _status(name: str) -> dict[str, str]:
    return {"path": f"/objects/{name}", "property": "status"}


async def _checkpoint_every(qmp: QmpSession, interval_ms: int) -> None:
    await qmp.execute(Command.MIGRATE_SET_PARAMETERS, {"x-checkpoint-delay": interval_ms})


# ---- the secondary


class Hold:
    """Holds back what S's guest sends, from a checkpoint on. Made before the checkpoint is asked for.

    Close it, or whoever listens to the session's events keeps it.
    """

    def __init__(self, qmp: QmpSession, plan: LockstepPlan, *, now: Callable[[], float]) -> None:
        self._qmp, self._plan, self._now = qmp, plan, now
        self._watch = CheckpointWatch(qmp)
        self.held_at_s = 0.0  # not later than the buffer began to hold back
        self._held_at_stop = 0  # which checkpoint the buffer belongs to
        self._task = asyncio.create_task(self._follow(), name="hold at the checkpoint")

    @property
    def is_clean(self) -> bool:
        """Whether the buffer has everything that the guest has sent since its latest checkpoint, and nothing else."""
        return 0 < self._held_at_stop == self._watch.stops == self._watch.resumes

    async def is_set(self, deadline_s: float = 0.05) -> bool:
        """Whether the checkpoint that the primary knows of has ended here too, with the buffer in place."""

        async def is_clean() -> bool:
            return self.is_clean

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await poll(is_clean, interval_s=0.0005)
        return self.is_clean

    async def close(self) -> None:
        """Listen no more; the buffer stays."""
        self._watch.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        """At every checkpoint a new buffer: what is in the old one belongs to what the checkpoint undoes."""
        watch = self._watch
        handled = 0
        while True:
            if watch.stops == handled:
                await watch.news()
                continue
            handled = watch.stops
            began_s = self._now()
            if await self._put() and watch.stops == handled:
                self._held_at_stop, self.held_at_s = handled, began_s

    async def _put(self) -> bool:
        """Whether the guest still stood when the buffer was in place. One burst, so that it fits into the pause."""
        burst = [
            self._qmp.execute(command, arguments)
            for j in range(self._plan.nics)
            for command, arguments in (
                (Command.OBJECT_DEL, {"id": self._plan.hold_filter(j)}),
                (Command.OBJECT_ADD, buffer_object(self._plan, j)),
            )
        ]
        *changes, status = await asyncio.gather(
            *burst, self._qmp.execute(Command.QUERY_STATUS), return_exceptions=True
        )
        is_made = not any(isinstance(result, BaseException) for result in changes[1::2])
        return is_made and isinstance(status, dict) and status["status"] != "running"


def buffer_object(plan: LockstepPlan, nic: int) -> dict[str, Any]:
    """The filter-buffer of one NIC: between the rewriter and the filter that takes what the guest sends."""
    _, take = plan.secondary_filters(nic)
    where = {"netdev": netdev_id(nic), "queue": "rx", "insert": "behind", "position": f"id={take}"}
    return {
        "qom-type": "filter-buffer",
        "id": plan.hold_filter(nic),
        "interval": int(HOLD_S * 1_000_000),
        **where,
    }


async def drop_hold(qmp: QmpSession, plan: LockstepPlan) -> None:
    """Take the buffer out while lockstep's filter is still behind it: its packets end there. Idempotent."""
    await remove_objects(qmp, [plan.hold_filter(j) for j in range(plan.nics)])


async def shut_comparison(qmp: QmpSession, plan: LockstepPlan) -> None:
    """Take out the filter that takes what the guest sends; the buffer still holds it back."""
    for j in range(plan.nics):
        await attempt(qmp, Command.OBJECT_DEL, {"id": plan.secondary_filters(j)[1]})


async def open_output(qmp: QmpSession, plan: LockstepPlan) -> None:
    """Let the guest speak: what the buffer has goes out, in order, and everything after it."""
    for j in range(plan.nics):
        await attempt(qmp, Command.OBJECT_DEL, {"id": plan.hold_filter(j)})


async def stop_listening(qmp: QmpSession, plan: LockstepPlan) -> None:
    """Take out the filter that receives from the primary's mirror, when nobody sends to the primary any more."""
    await remove_objects(qmp, [plan.secondary_filters(j)[0] for j in range(plan.nics)])
