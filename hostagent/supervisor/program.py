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
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import VdcError
from vdc.model.event import Severity
from vdc.model.guest import ProgramState, ProgramStatus

EVERY_S: Final = 2.0
UNSETTLED_EVERY_S: Final = 0.5  # while it starts, or is not ready
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

    async def run(self) -> None:
        """Never returns."""
        while True:
            try:
                await self._look()
            except Exception as error:  # this task's boundary: nobody would start it again
                self._copy.host.log.exception(
                    "looking at a program failed", endophyte=self._copy.name, why=repr(error)
                )
            program = self._copy.program
            is_settled = program is not None and program.state == ProgramState.RUNNING and program.ready
            await asyncio.sleep(EVERY_S if is_settled or not self._is_ours() else UNSETTLED_EVERY_S)

    def _is_ours(self) -> bool:
        """Whether this host's copy is a container's primary, in a stage in which its guest answers."""
        copy = self._copy
        endophyte = copy.host.mirror.endophyte(copy.name)
        is_primary = copy.state.role is CopyRole.PRIMARY and copy.is_alive
        return is_primary and copy.state.stage in _ASKED and endophyte is not None and is_container(endophyte)

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
            with suppress(VdcError):
                await self._copy.host.tell(
                    self._copy.name, one.code, one.sentence,
                    epoch=self._copy.state.epoch, severity=one.severity,
                )  # fmt: skip


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
    why = f": {after.reason}" if after.reason else ""
    if after.state == ProgramState.UNKNOWN:
        yield News("program-silent", f"the guest does not answer any more{why}")
        return
    if after.restarts > before.restarts:
        how = "" if after.exit_code is None else f"; it had ended with {after.exit_code}"
        yield News(
            "program-restarted", f"the program was started again, {_times(after.restarts)} in all{how}{why}"
        )
    has_ended = after.state in (ProgramState.WAITING, ProgramState.ENDED)
    if has_ended and (after.state, after.restarts) != (before.state, before.restarts):
        is_well = after.state == ProgramState.ENDED and after.exit_code == 0
        what = "for good" if after.state == ProgramState.ENDED else "and is started again after a pause"
        yield News(
            "program-ended", f"the program ended with {after.exit_code}, {what}{why}",
            Severity.NORMAL if is_well else Severity.WARNING,
        )  # fmt: skip
    elif before.ready and not after.ready and after.state == ProgramState.RUNNING:
        yield News("program-not-ready", f"the program is not ready any more{why}")
    elif after.ready and not before.ready:
        yield News("program-ready", "the program is ready", Severity.NORMAL)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
