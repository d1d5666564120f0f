"""Waiting until an Endophyte is what was asked for; on time-out the error says what is missing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

from vdc.api.client import ApiClient
from vdc.api.models import EndophyteView
from vdc.cli.output import last_line
from vdc.cli.progress import StatusLine
from vdc.cli.text import clean
from vdc.model.endophyte import Phase, Protection
from vdc.model.errors import NotFoundError, RefusedError, UnavailableError, VdcError
from vdc.model.guest import ProgramState, ProgramStatus
from vdc.model.manifest import ComputerType, EndophyteSpec

_RETRY_S = 0.5
_POLL_S = 0.3
_RECHECK_S = 5.0
PROGRAM_LASTS_S = 3.0  # longer than its agent takes to notice that it has ended
_OUTPUT_S, _OUTPUT_LINES, _MOST_OUTPUT = 5.0, 20, 200


@dataclass(frozen=True, slots=True)
class Goal:
    """What is waited for: words for a sentence, and how to recognise it."""

    words: str
    is_reached: Callable[[EndophyteView], bool]
    is_failure: Callable[[EndophyteView], bool] = lambda view: view.status.phase is Phase.FAILED
    program_lasts_s: float = 0.0  # a container's program has to have been up for so long


RUNNING = Goal("running", lambda view: view.status.phase is Phase.RUNNING)
PAUSED = Goal("paused", lambda view: view.status.phase is Phase.PAUSED)
STOPPED = Goal("stopped", lambda view: view.status.phase is Phase.STOPPED, lambda _: False)
LOCKSTEP = Goal(
    "running in lockstep",
    lambda view: view.status.phase is Phase.RUNNING and view.status.protection is Protection.LOCKSTEP,
)
UNPROTECTED = Goal("unprotected", lambda view: view.status.protection is Protection.NONE)


def moved_to(host: str) -> Goal:
    """What `migrate --wait` waits for; a move that was given up is a failure, and its reason the sentence."""

    def is_there(view: EndophyteView) -> bool:
        primary = view.status.primary
        return primary is not None and primary.host == host and view.status.phase is Phase.RUNNING

    def is_given_up(view: EndophyteView) -> bool:
        return bool(view.status.move_problem) and view.status.moving_to is None

    return Goal(f"on {host}", is_there, is_given_up)


def goal_of(spec: EndophyteSpec) -> Goal:
    """What `create --wait` and `apply --wait` wait for: running, and in lockstep where that is asked for.

    A container's program has to run as well, and to be ready; one that has done its work and ended with 0 counts.
    Where no probe says that it is ready, it must not end within some seconds: most that cannot start end at once.
    """
    goal = LOCKSTEP if spec.wants_protection else RUNNING
    if spec.virtual_computer.type is not ComputerType.CONTAINER:
        return goal

    def is_failure(view: EndophyteView) -> bool:
        program = view.status.program
        has_failed = program is not None and program.state == ProgramState.ENDED and program.exit_code != 0
        return has_failed or goal.is_failure(view)

    def is_reached(view: EndophyteView) -> bool:
        return goal.is_reached(view) and _is_up(view.status.program)

    has_probe = spec.process is not None and spec.process.readiness_probe is not None
    return Goal(goal.words, is_reached, is_failure, 0.0 if has_probe else PROGRAM_LASTS_S)


def _is_up(program: ProgramStatus | None) -> bool:
    if program is None:
        return False
    has_done = program.state == ProgramState.ENDED and program.exit_code == 0
    return has_done or (program.state == ProgramState.RUNNING and program.ready)


async def wait_for(
    api: ApiClient, name: str, goal: Goal, timeout_s: float, line: StatusLine | None = None
) -> EndophyteView:
    """Follow the Endophyte until the goal is reached.

    An agent that is lost meanwhile is no reason to stop waiting. Raises `UnavailableError` (`wait-timeout`),
    `RefusedError` (`endophyte-failed`), `NotFoundError`.
    """
    follower = _Follower(api, name, goal, line)
    try:
        async with asyncio.timeout(timeout_s):
            while (left_s := follower.left_s()) > 0:
                try:
                    if left_s < math.inf:
                        await asyncio.sleep(left_s)
                    await follower.follow()
                except UnavailableError:
                    await asyncio.sleep(_RETRY_S)
    except TimeoutError:
        said = await _last_output(api, follower.last)
        raise _too_late(name, goal, timeout_s, follower.last, said) from None
    assert follower.last is not None
    return follower.last


class _Follower:
    """What is known of one Endophyte while it is waited for."""

    def __init__(self, api: ApiClient, name: str, goal: Goal, line: StatusLine | None) -> None:
        self._api, self._name, self._goal, self._line = api, name, goal, line
        self.last: EndophyteView | None = None
        self._run: object = None  # of the program, that was seen last
        self._up_since_s = 0.0

    def left_s(self) -> float:
        """How long what is reached has to last yet; infinite where it is not reached."""
        if self.last is None or not self._goal.is_reached(self.last):
            return math.inf
        program = self.last.status.program
        if program is None or program.state != ProgramState.RUNNING:
            return 0.0
        return self._goal.program_lasts_s - (asyncio.get_running_loop().time() - self._up_since_s)

    def _note_run(self, program: ProgramStatus | None) -> None:
        run = (program.pid, program.restarts) if program is not None and _is_up(program) else None
        if run != self._run:
            self._run, self._up_since_s = run, asyncio.get_running_loop().time()

    async def follow(self) -> None:
        """Ask, then read the stream until the goal, or for a while: no stream tells of a deletion."""
        if await self._is_reached(await self._api.get_endophyte(self._name)):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_RECHECK_S), aclosing(self._api.watch_endophytes(self._name)) as views:
                async for view in views:
                    if await self._is_reached(view):
                        return

    async def _is_reached(self, view: EndophyteView) -> bool:
        self.last = view
        self._note_run(view.status.program)
        if self._line:
            self._line.show(f"{self._name}: {_state(view)}")
        if self._goal.is_failure(view):
            raise _failed(view, await _last_output(self._api, view))
        return self._goal.is_reached(view)


async def wait_gone(api: ApiClient, name: str, uid: str, timeout_s: float) -> None:
    """Wait until this Endophyte (not another one of its name) does not exist any more."""
    view: EndophyteView | None = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    view = await api.get_endophyte(name)
                except NotFoundError:
                    return
                except UnavailableError:
                    view = None
                if view is not None and view.metadata.uid != uid:
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        gone = Goal("gone", lambda _: False)
        raise _too_late(name, gone, timeout_s, view) from None


def _state(view: EndophyteView) -> str:
    if view.status.move_problem and view.status.moving_to is None:
        return view.status.move_problem
    return view.status.sentence or f"{view.status.phase.value}, protection {view.status.protection.value}"


async def _last_output(api: ApiClient, view: EndophyteView | None) -> str:
    """What a container's program that is not well wrote last, for a sentence."""
    if view is None or view.status.program is None or _is_up(view.status.program):
        return ""
    with suppress(VdcError, TimeoutError):
        async with asyncio.timeout(_OUTPUT_S):
            text = last_line((await api.endophyte_log(view.metadata.name, lines=_OUTPUT_LINES)).text)
            return f"; it wrote last: {clean(text)[:_MOST_OUTPUT]}" if text else ""
    return ""


def _failed(view: EndophyteView, said: str) -> RefusedError:
    name = view.metadata.name
    return RefusedError(
        f"endophyte {name} failed: {_state(view)}{said}",
        hint=f"vdc describe endophyte {name}",
        code="endophyte-failed",
    )


def _too_late(
    name: str, goal: Goal, timeout_s: float, last: EndophyteView | None, said: str = ""
) -> UnavailableError:
    missing = _state(last) if last else "no agent answers"
    return UnavailableError(
        f"endophyte {name} is not {goal.words} after {timeout_s:g} s: {missing}{said}",
        hint=f"it goes on by itself; look with: vdc describe endophyte {name}",
        code="wait-timeout",
    )
