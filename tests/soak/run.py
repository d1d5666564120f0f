"""One VM, one client, one fault after the other; after each everything has to be as if nothing had been.

What counts as a violation: a session that broke, an answer that is wrong or did not come in time, an acknowledged
write that is missing, two hosts that spoke for the guest, a VM that is not protected again in time, and anything
that the audit finds. The first one ends the run; its history says how to have the same fault again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from testlab import VM, Lab

from tests.soak import plan
from tests.soak.plan import Fault
from tests.soak.strike import strike

PROTECTED_S = 120.0  # until it is protected again after everything was healed; back-offs included
ANSWERS, ANSWER_S = 20, 60.0
NAME = "soak"


class ViolationError(AssertionError):
    """Something that must never happen has happened."""


@dataclass(frozen=True)
class Entry:
    """One fault as it came."""

    fault: Fault
    host: str
    took_s: float
    epoch: int
    gap_ms: float
    protected_after_s: float

    def __str__(self) -> str:
        return (
            f"{self.fault.number:4d}  {self.fault!s} -> {self.host}: epoch {self.epoch}, gap {self.gap_ms:.0f} ms, "
            f"protected after {self.protected_after_s:.1f} s"
        )


@dataclass
class History:
    """What has happened so far."""

    seed: int
    entries: list[Entry] = field(default_factory=list)
    present: Fault | None = None

    def replay(self) -> str:
        """How to have the present fault again."""
        number = self.present.number if self.present else 0
        return f"make soak SEED={self.seed} FROM={number} FAULTS=1"


def soak(
    lab: Lab, seed: int, numbers: range, *, until_s: float, say: Callable[[str], None], history: History
) -> None:
    """Strike with the faults of these numbers until the time (time.monotonic) has come; raises ViolationError."""
    vm = lab.create(NAME)
    lab.wait_answering(vm.address)
    with lab.workload(vm, patience_s=60, pause_ms=40) as workload:
        for number in numbers:
            if time.monotonic() > until_s:
                break
            history.present = plan.fault(seed, number)
            workload.wait_progress(more=ANSWERS, deadline_s=ANSWER_S)
            time.sleep(plan.moment_s(seed, number))  # the fault comes at no particular moment
            entry = _one(lab, vm, history.present, lambda: [gap.ms for gap in workload.gaps])
            workload.wait_progress(more=ANSWERS, deadline_s=ANSWER_S)
            history.entries.append(entry)
            say(str(entry))
    if workload.report.errors:
        raise ViolationError(f"sessions: {'; '.join(workload.report.errors)}")
    workload.check_store()


def _one(lab: Lab, vm: VM, fault: Fault, gaps: Callable[[], list[float]]) -> Entry:
    before, began = len(gaps()), time.monotonic()
    since = next(
        one["at"] for one in reversed(lab.events(NAME)) if one["code"] == "lockstep"
    )  # who may speak now
    with lab.capture() as capture:
        host = strike(lab, vm, fault)
        healed = time.monotonic()
        view = vm.wait_lockstep(PROTECTED_S)
        protected_after_s = time.monotonic() - healed
        lab.assert_clean(f"after {fault}", clients_may_run=True)
        verdicts = lab.verdicts(capture, since)
    if violations := [one for verdict in verdicts for one in verdict.violations]:
        raise ViolationError(f"two speakers: {'; '.join(violations)}")
    longest = max(gaps()[before:], default=0.0)
    return Entry(fault, host, time.monotonic() - began, view.status.epoch, longest, protected_after_s)
