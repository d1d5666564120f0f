"""Sessions from the lab's client to a guest, held open through whatever happens to its hosts.

with Workload(launch, address) as workload:
    ...  # kill something
    workload.wait_progress(more=50, deadline_s=10)
report = workload.report
workload.check_store()
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vdc.model.errors import BugError, UnavailableError

PROGRAM = Path(__file__).with_name("workload.py")
ALL = ("echo", "diverging", "durable")
START_S = 30.0
STOP_S = 45.0
CHECK_S = 60.0
POLL_S = 0.02

Launch = Callable[
    [Sequence[str]], list[str]
]  # the command line that runs a command in the client's namespace


@dataclass(frozen=True)
class Session:
    """What one session saw."""

    requests: int
    seconds: float
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    longest_gap_ms: float
    longest_gap_at: float
    acknowledged: int
    errors: list[str]


@dataclass(frozen=True)
class Gap:
    """A request whose answer took long enough to be noticed; `at` is when it was sent, in seconds of the clock."""

    service: str
    ms: float
    at: float


class WorkloadError(UnavailableError):
    """The sessions did not do what was waited for: one broke, an answer was wrong, or none came in time."""

    default_code = "workload-failed"


@dataclass(frozen=True)
class Report:
    """What all sessions of a workload saw."""

    sessions: dict[str, Session]

    @property
    def errors(self) -> list[str]:
        """Wrong answers, answers that did not come, sessions that broke."""
        return [error for session in self.sessions.values() for error in session.errors]

    @property
    def longest_gap_ms(self) -> float:
        """The longest time without an answer on any session."""
        return max(session.longest_gap_ms for session in self.sessions.values())

    @property
    def acknowledged(self) -> int:
        """The highest number that the store confirmed."""
        return self.sessions["durable"].acknowledged if "durable" in self.sessions else 0


class Workload:
    """One TCP session per service, asked without a pause until `stop`.

    `program`: what asks, where it is not the demo guest's services that are asked (`vdc.lab.workload.main`).
    """

    def __init__(
        self,
        launch: Launch,
        address: str,
        services: Sequence[str] = ALL,
        *,
        tag: str = "w",
        first: int = 1,
        pause_ms: float = 10.0,
        patience_s: float = 30.0,
        program: Path = PROGRAM,
    ) -> None:
        self.address, self.tag, self.first = address, tag, first
        self._program = program
        self._launch = launch
        self._services = tuple(services)
        self._options = [
            "--tag", tag, "--first", str(first), "--pause-ms", str(pause_ms), "--patience-s", str(patience_s),
        ]  # fmt: skip
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._progress: dict[str, int] = {}
        self._last: dict[str, Any] = {}
        self._report: Report | None = None
        self.gaps: list[Gap] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

    @property
    def report(self) -> Report:
        """What was seen, once it has been stopped."""
        if self._report is None:
            raise BugError("the workload still runs")
        return self._report

    def start(self) -> None:
        """Open the sessions and wait until each has its first answers."""
        argv = self._launch(
            [sys.executable, str(self._program), "run", self.address, *self._services, *self._options]
        )
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, name="workload", daemon=True)
        self._reader.start()
        self.wait_progress(more=3, deadline_s=START_S)

    def wait_progress(self, more: int, deadline_s: float) -> None:
        """Wait until every session got `more` further answers."""
        wanted = {service: self._progress.get(service, 0) + more for service in self._services}
        end = time.monotonic() + deadline_s
        while any(self._progress.get(service, 0) < count for service, count in wanted.items()):
            if not self._reader or not self._reader.is_alive():
                raise WorkloadError(f"the workload has ended: {self._last}")
            if time.monotonic() > end:
                raise WorkloadError(
                    f"not {more} more answers within {deadline_s:g} s: {self._progress}, wanted {wanted}"
                )
            time.sleep(POLL_S)

    def stop(self) -> Report:
        """End the sessions after their present request and return the report."""
        if self._report is None:
            process, reader = self._process, self._reader
            if process is None or process.stdin is None or reader is None:
                raise BugError("the workload was not started")
            process.stdin.close()
            reader.join(STOP_S)
            self.kill()
            if "report" not in self._last:
                raise WorkloadError(f"the workload did not report: {self._last}")
            found = self._last["report"]
            self._report = Report({service: Session(**values) for service, values in found.items()})
        return self._report

    def kill(self) -> None:
        """End it whatever state it is in."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None and not stream.closed:
                    stream.close()
            if self._reader is not None:
                self._reader.join(5)

    def check_store(self) -> None:
        """Fail unless the guest's store holds everything that it ever confirmed to this workload."""
        check_store(self._launch, self.address, self.tag, self.first, self.report.acknowledged)

    def _read(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        for line in self._process.stdout:
            message = json.loads(line)
            if "gap" in message:
                self.gaps.append(Gap(**message["gap"]))
            elif "progress" in message:
                self._progress = message["progress"]
            else:
                self._last = message


def check_store(launch: Launch, address: str, tag: str, first: int, last: int) -> None:
    """On a connection of its own: every number from `first` to `last` is there with its content, none lost.

    Raises WorkloadError where that is not so.
    """
    if last < first:
        raise WorkloadError("nothing was ever confirmed")
    argv = launch([sys.executable, str(PROGRAM), "check", address, tag, str(first), str(last)])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=CHECK_S, check=False)
    if done.returncode:
        raise WorkloadError(f"the store could not be checked: {done.stdout} {done.stderr}".strip())
    found = json.loads(done.stdout)
    if found["wrong_count"]:
        raise WorkloadError(f"{found['wrong_count']} confirmed writes are not there: {found['wrong']}")
    if found["count"] < last - first + 1:
        raise WorkloadError(f"the store counts {found['count']}, {last - first + 1} were confirmed")
