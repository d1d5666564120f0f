"""Carrying a fault out on a lab, and undoing it. Whom it befalls is looked up at that moment."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping

from testlab import VM, Lab, kill_agent

from tests.soak.plan import Fault, Kind, Part
from vdc.lab.processes import Process, signal_all

NEWS_S = 20.0  # for a command to have its effect


def strike(lab: Lab, vm: VM, fault: Fault) -> str:
    """Do it, hold it for its time, and heal everything; returns whom it befell."""
    host = _host(vm, fault.part)
    _DEEDS[fault.kind](lab, vm, fault, host)
    lab.heal()
    return host


def _host(vm: VM, part: Part | None) -> str:
    status = vm.view().status
    assert status.primary and status.secondary, status
    if part is None:
        return status.primary.host
    return {
        Part.PRIMARY: status.primary.host,
        Part.SECONDARY: status.secondary.host,
        Part.SPARE: status.spares[0],
    }[part]


def _hold(fault: Fault) -> None:
    time.sleep(fault.details["hold_s"])  # the fault itself: it lasts this long


def _kill_qemu(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    signal_all([vm.qemu(host)], signal.SIGKILL)


def _stop_and_go_on(process: Process, fault: Fault) -> None:
    signal_all([process], signal.SIGSTOP)
    try:
        _hold(fault)
    finally:
        signal_all([process], signal.SIGCONT)


def _stop_qemu(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    _stop_and_go_on(vm.qemu(host), fault)


def _kill_agent(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    kill_agent(lab, host)


def _stop_agent(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    _stop_and_go_on(lab.agent(host), fault)


def _kill_etcd(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    signal_all([lab.etcd(host)], signal.SIGKILL)


def _power_off(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    lab.fault("power-off", host)
    time.sleep(fault.details["off_s"])


def _suspend(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    lab.fault("pause", host)
    _hold(fault)


def _cut(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    details = fault.details
    lab.fault("partition", host, network=details["network"], direction=details["direction"])
    _hold(fault)


def _slow(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    lab.fault("slow", host, rate=fault.details["rate"])
    _hold(fault)


def _promote(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    lab.ok("promote", "replica", vm.name)


def _move(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    lab.ok("promote", "replica", vm.name, "--to", vm.view().status.spares[0])


def _unprotect(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    lab.ok("unprotect", vm.name)
    vm.wait("unprotected", lambda view: view.status.secondary is None, NEWS_S)
    lab.ok("protect", vm.name)


def _kill_leader(lab: Lab, vm: VM, fault: Fault, host: str) -> None:
    leader = next((node["host"]["name"] for node in lab.nodes() if node["is_leader"]), host)
    kill_agent(lab, leader)


_DEEDS: Mapping[Kind, Callable[[Lab, VM, Fault, str], None]] = {
    Kind.KILL_QEMU: _kill_qemu,
    Kind.STOP_QEMU: _stop_qemu,
    Kind.KILL_AGENT: _kill_agent,
    Kind.STOP_AGENT: _stop_agent,
    Kind.KILL_ETCD: _kill_etcd,
    Kind.POWER_OFF: _power_off,
    Kind.SUSPEND: _suspend,
    Kind.CUT: _cut,
    Kind.SLOW: _slow,
    Kind.PROMOTE: _promote,
    Kind.MOVE: _move,
    Kind.UNPROTECT: _unprotect,
    Kind.CONTROLLER: _kill_leader,
}
