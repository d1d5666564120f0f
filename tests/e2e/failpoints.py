"""Killing agents at named steps, and starting them again at once, as a service manager does on a real host."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from testlab import Lab, kill_agent, wait_for

from vdc.lab.agents import recorded_agent, start_agent
from vdc.lab.processes import is_running
from vdc.model.errors import VdcError
from vdc.model.step import Step

VARIABLE = "VDC_FAILPOINTS"
LOOK_EVERY_S = 0.05


class Failpoints:
    """Arms steps on hosts. Each is disarmed by being reached."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._ever: set[tuple[str, Step]] = set()  # what was armed since the last `disarm`
        self.not_started: set[str] = set()  # hosts whose agents stay dead for now

    def arm(self, host: str, *steps: Step, action: str = "kill") -> None:
        """At each of these steps this host's agent dies, once."""
        folder = self._lab.plan.host(host).state_dir / "failpoints"
        folder.mkdir(exist_ok=True)
        self._ever |= {(host, step) for step in steps}
        for step in steps:
            (folder / step.value).write_text(action)

    def arm_everywhere(self, *steps: Step) -> None:
        """The same on each host."""
        for host in self._lab.hosts:
            self.arm(host, *steps)

    def armed(self, host: str) -> set[Step]:
        """The steps that were not reached yet."""
        folder = self._lab.plan.host(host).state_dir / "failpoints"
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        return {step for step in Step if step.value in names}

    def disarm(self, *hosts: str) -> None:
        """Forget what was not reached."""
        self._ever.clear()
        for host in hosts or self._lab.hosts:
            folder = self._lab.plan.host(host).state_dir / "failpoints"
            for path in folder.iterdir() if folder.is_dir() else ():
                path.unlink(missing_ok=True)

    def wait_died_at(self, host: str, *steps: Step, deadline_s: float = 60.0) -> None:
        """Until the agent has died at each of them."""
        wait_for(
            lambda: not self.armed(host) & set(steps),
            deadline_s,
            lambda: f"{host} reaches {sorted(self.armed(host) & set(steps))}",
        )

    def wait_died_anywhere(self, step: Step, deadline_s: float = 30.0) -> None:
        """Until one host's agent has died at it."""
        wait_for(
            lambda: any(
                step not in self.armed(host) for host in self._lab.hosts if (host, step) in self._ever
            ),
            deadline_s,
            f"{step} is reached",
        )

    def wait_standing_at(self, host: str, step: Step, deadline_s: float = 60.0) -> None:
        """Until the agent waits at a step that was armed with `wait`."""
        wait_for(self._waiting(host, step).exists, deadline_s, f"{host} stands at {step}", every_s=0.02)

    def release(self, host: str, step: Step) -> None:
        """Let it go on."""
        self._waiting(host, step).unlink()

    def _waiting(self, host: str, step: Step) -> Path:
        return self._lab.plan.host(host).state_dir / "failpoints" / f"{step.value}.waiting"

    @contextmanager
    def nobody_starts(self, host: str) -> Iterator[None]:
        """A dead agent of this host stays dead for the time of the block."""
        self.not_started.add(host)
        try:
            yield
        finally:
            self.not_started.discard(host)

    def kill_agent(self, host: str) -> None:
        """SIGKILL, wherever it is."""
        kill_agent(self._lab, host)


@contextmanager
def failpoints(lab: Lab) -> Iterator[Failpoints]:
    """All agents with failpoints, and started again as soon as they have died; afterwards agents without."""
    os.environ[VARIABLE] = "1"
    try:
        _restart_all(lab)
        points = Failpoints(lab)
        with _service_manager(lab, points):
            try:
                yield points
            finally:
                points.disarm()
    finally:
        del os.environ[VARIABLE]
        _restart_all(lab)


def _restart_all(lab: Lab) -> None:
    for host in lab.hosts:
        kill_agent(lab, host)
    lab.heal()


@contextmanager
def _service_manager(lab: Lab, points: Failpoints) -> Iterator[None]:
    hosts, stop = lab.plan.hosts, threading.Event()
    take_away = lab.down

    def run() -> None:
        while not stop.wait(LOOK_EVERY_S):
            for host in hosts:
                if host.name not in points.not_started and not is_running(recorded_agent(host)):
                    with suppress(VdcError, OSError):  # a lab that is taken away under us
                        start_agent(host, lab.settings)

    thread = threading.Thread(target=run, name="service manager", daemon=True)
    thread.start()

    def down() -> None:  # a lab that is given up is not to be kept alive
        stop.set()
        thread.join()
        take_away()

    lab.down = down  # type: ignore[method-assign]
    try:
        yield
    finally:
        lab.down = take_away  # type: ignore[method-assign]
        stop.set()
        thread.join()


def of(*operations: str, but: Sequence[Step] = ()) -> tuple[Step, ...]:
    """The steps of these operations, in their order."""
    return tuple(step for step in Step if step.operation in operations and step not in but)
