"""One VM of a lab: where its copies are, what is done to them, what is waited for."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from labkernel import taps_of, vm_of
from pacing import wait_for

from vdc.api.models import EndophyteView
from vdc.lab.processes import Process, signal_all
from vdc.model.endophyte import Observed, Phase, RunState
from vdc.model.errors import VdcError

if TYPE_CHECKING:
    from testlab import Lab


class VM:
    """One VM of the lab."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name
        self.address = self.view().status.addresses[0]

    def view(self, host: str | None = None) -> EndophyteView:
        """As `host` (or the first that answers) sees it."""
        return self.lab.view(self.name, host)

    @property
    def primary(self) -> str:
        """The primary's host."""
        copy = self.view().status.primary
        assert copy is not None
        return copy.host

    @property
    def secondary(self) -> str:
        """The secondary's host."""
        copy = self.view().status.secondary
        assert copy is not None, f"{self.name} has no secondary"
        return copy.host

    @property
    def epoch(self) -> int:
        """The epoch of the arbitration record."""
        return self.view().status.epoch

    @property
    def spare(self) -> str:
        """A host without a copy."""
        return next(host for host in self.lab.hosts if host not in (self.primary, self.secondary))

    def qemu(self, host: str) -> Process:
        """Its QEMU on a host."""
        found = [process for process in self.lab.qemus(host) if vm_of(process) == self.name]
        assert len(found) == 1, f"{len(found)} QEMUs of {self.name} on {host}"
        return found[0]

    def copy_on(self, host: str) -> Observed:
        """What a host last said of its copy."""
        described = self.lab.ask(lambda api: api.describe_endophyte(self.name))
        return next(copy for copy in described.copies if copy.host == host)

    def sentence_on(self, host: str) -> str:
        """What a host itself says of its copy, though nobody else may hear it."""
        words = [line for line in self.lab.agent_log(host).splitlines() if f"endophyte={self.name}" in line]
        return next((line for line in reversed(words) if "rule=" in line), "")

    def runs_on(self, host: str) -> bool:
        """Whether a QEMU of it runs on a host."""
        return any(vm_of(process) == self.name for process in self.lab.qemus(host))

    def is_on_network(self, host: str) -> bool:
        """Whether a port of it is plugged into the overlay on a host."""
        uid = self.view().metadata.uid
        return any(tap.is_live for tap in taps_of(self.lab.plan.host(host)) if tap.uid == uid)

    def kill(self, host: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to its QEMU on a host."""
        signal_all([self.qemu(host)], number)

    def wait(self, what: str, condition: Callable[[EndophyteView], bool], deadline_s: float) -> EndophyteView:
        """Wait until its view is as described."""
        last: list[EndophyteView] = []

        def holds() -> bool:
            try:
                last[:] = [self.view()]
            except VdcError:
                return False  # an agent that was just lost; the deadline is the judge
            return condition(last[0])

        wait_for(
            holds, deadline_s, lambda: f"{self.name} {what}; it is {last[0].status if last else 'unknown'}"
        )
        return last[0]

    def wait_lockstep(self, deadline_s: float = 60.0) -> EndophyteView:
        """Wait until it is protected."""
        return self.wait("in lockstep", lambda view: view.status.protection.value == "lockstep", deadline_s)

    def wait_primary(self, host: str, deadline_s: float = 20.0) -> EndophyteView:
        """Wait until the record names this host the primary and the guest runs there."""

        def is_there(view: EndophyteView) -> bool:
            copy = view.status.primary
            return copy is not None and copy.host == host and view.status.phase is Phase.RUNNING

        return self.wait(f"running on {host}", is_there, deadline_s)

    def shell(self, command: str) -> str:
        """Run a command in the guest by its serial console; returns what it printed."""
        printed = self.lab.type_at_console(self.name, f"\necho be''gin; {command}; echo e''nd\n", until="end")
        assert "begin" in printed and "end" in printed, printed
        return printed.rpartition("begin")[2].partition("end")[0].strip()

    def ask_run(self, state: RunState) -> None:
        """Ask for a run state, and do not wait for it."""
        self.lab.ask(lambda api: api.run_endophyte(self.name, state))

    def ask_protection(self, *, enabled: bool) -> None:
        """Ask for protection or against it, and do not wait for it."""
        self.lab.ask(lambda api: api.protect_endophyte(self.name, enabled=enabled))

    def event_codes(self) -> list[str]:
        """The codes of its events, oldest first."""
        return [event["code"] for event in self.lab.events(self.name)]
