"""How the program in a container's guest is: asked again and again by the primary's host, and told where it changes.

The guest's answer is checked before anything is made of it, and its sentences are cleaned. Probes, restarts and their
pauses happen inside the guest; here they are only seen.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from hostagent.drivers.guest import GuestError, GuestGoneError
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.machine import is_container
from hostagent.supervisor.outputs import OutputKeeper
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import VdcError
from vdc.model.event import Severity
from vdc.model.guest import ProgramState, ProgramStatus

EVERY_S: Final = 2.0
UNSETTLED_EVERY_S: Final = 0.5  # while it starts, or is not ready
QUICK_LOOKS: Final = 120  # so often at that pace, until it has been well again
TOLD_AT_ONCE: Final = 20  # events of one program; a guest decides how often it changes its mind
TOLD_EVERY_S: Final = 15.0  # go on and on
ANSWER_S: Final = 5.0
SILENT_AFTER_S: Final = 15.0  # without an answer: longer than any pause that a sound guest is given
_ASKED = (
    CopyStage.RUNNING, CopyStage.ENTERING, CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP, CopyStage.LEAVING,
)  # fmt: skip
_OF_GUEST = frozenset(set(ProgramState) - {ProgramState.UNKNOWN})
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_TIME = re.compile(r"[0-9T:.Z+-]{0,40}")
_MOST_REASON: Final = 300
_MOST_NUMBER: Final = 2**31


@dataclass(frozen=True, slots=True)
class News:
    """One event worth telling."""

    code: str
    sentence: str
    severity: Severity = Severity.WARNING


class ProgramWatch:
    """One per supervisor. `wake` is called whenever the program is another than before."""

    def __init__(self, copy: Copy, wake: Callable[[], None]) -> None:
        self._copy = copy
        self._wake = wake
        self._silent_since_s: float | None = None
        self._quick_looks = QUICK_LOOKS
        self._may_tell, self._refilled_at_s = float(TOLD_AT_ONCE), 0.0
        self._output = OutputKeeper(copy)

    async def run(self) -> None:
        """Never returns."""
        while True:
            try:
                await self._look()
                if self._is_container():
                    await self._output.look()
            except Exception as error:  # this task's boundary: nobody would start it again
                self._copy.host.log.exception(
                    "looking at a program failed", endophyte=self._copy.name, why=repr(error)
                )
            await asyncio.sleep(self._pause_s())

    def _pause_s(self) -> float:
        program = self._copy.program
        is_settled = program is not None and program.state == ProgramState.RUNNING and program.ready
        if is_settled or not self._is_ours():
            self._quick_looks = QUICK_LOOKS
            return EVERY_S
        self._quick_looks -= 1
        return UNSETTLED_EVERY_S if self._quick_looks > 0 else EVERY_S

    def _is_ours(self) -> bool:
        """Whether this host's copy is a container's primary, in a stage in which its guest answers."""
        copy = self._copy
        is_primary = copy.state.role is CopyRole.PRIMARY and copy.is_alive
        return is_primary and copy.state.stage in _ASKED and self._is_container()

    def _is_container(self) -> bool:
        endophyte = self._copy.host.mirror.endophyte(self._copy.name)
        return endophyte is not None and is_container(endophyte)

    async def _look(self) -> None:
        copy = self._copy
        if not self._is_ours():
            self._silent_since_s = None
            if copy.state.role is not CopyRole.PRIMARY:
                copy.program = None
                await copy.line.close()
            return
        after: ProgramStatus | None
        try:
            after = parse_status(await copy.line.ask("status", deadline_s=ANSWER_S))
        except GuestError as error:
            after = self._unanswered(error)
        else:
            self._silent_since_s = None
        if self._is_ours() and after != copy.program:
            await self._changed(after)

    def _unanswered(self, error: GuestError) -> ProgramStatus | None:
        """Nothing is known of a guest that boots; one that has answered is given a while."""
        now_s, before = self._copy.host.clock.boottime_s(), self._copy.program
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        if before is None or now_s - self._silent_since_s < SILENT_AFTER_S:
            return before
        return before.with_(state=ProgramState.UNKNOWN, ready=False, reason=str(error)[:_MOST_REASON])

    async def _changed(self, after: ProgramStatus | None) -> None:
        before, self._copy.program = self._copy.program, after
        self._wake()
        for one in news(before, after):
            if not self._has_turn():
                continue
            with suppress(VdcError):
                await self._copy.host.tell(
                    self._copy.name, one.code, one.sentence,
                    epoch=self._copy.state.epoch, severity=one.severity,
                )  # fmt: skip

    def _has_turn(self) -> bool:
        """Whether one more event is in time; if so it counts."""
        now_s = self._copy.host.clock.boottime_s()
        refill = (now_s - self._refilled_at_s) / TOLD_EVERY_S
        self._may_tell, self._refilled_at_s = min(TOLD_AT_ONCE, self._may_tell + refill), now_s
        if self._may_tell < 1:
            return False
        self._may_tell -= 1
        return True


def parse_status(answer: Mapping[str, Any]) -> ProgramStatus:
    """What the guest says, cleaned. Raises GuestGoneError where it is no status."""
    try:
        status = ProgramStatus.model_validate(answer.get("status"), strict=True)
    except ValidationError as error:
        raise GuestGoneError("the guest's answer is no status", code="guest-silent") from error
    numbers = (status.pid, status.restarts, status.exit_code or 0)
    if status.state not in _OF_GUEST or any(not 0 <= number < _MOST_NUMBER for number in numbers):
        raise GuestGoneError("the guest's answer is no status", code="guest-silent")
    return status.with_(
        reason=_UNPRINTABLE.sub(" ", status.reason)[:_MOST_REASON].strip(),
        started_at=status.started_at if _TIME.fullmatch(status.started_at) else "",
    )


def news(before: ProgramStatus | None, after: ProgramStatus | None) -> Iterator[News]:
    """What is worth telling of a change; nothing of the first look, which is the first after a failover too. Pure."""
    if after is None or before is None:
        return
    code = "" if after.exit_code is None else f"exit code {after.exit_code}"
    if after.state == ProgramState.UNKNOWN:
        yield News("program-silent", f"the guest does not answer any more: {after.reason}")
        return
    if after.restarts > before.restarts:
        how = f"; before: {code}" if code else ""
        yield News(
            "program-restarted", f"the program was started again, {_times(after.restarts)} in all{how}"
        )
    has_ended = after.state in (ProgramState.WAITING, ProgramState.ENDED)
    if has_ended and (after.state, after.restarts) != (before.state, before.restarts):
        is_well = after.state == ProgramState.ENDED and after.exit_code == 0
        severity = Severity.NORMAL if is_well else Severity.WARNING
        yield News("program-ended", f"the program ended: {after.reason or code}", severity)
    elif before.ready and not after.ready and after.state == ProgramState.RUNNING:
        yield News(
            "program-not-ready", f"the program is not ready any more: {after.reason or 'no reason given'}"
        )
    elif after.ready and not before.ready:
        yield News("program-ready", "the program is ready", Severity.NORMAL)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
