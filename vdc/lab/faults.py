"""What can be done to a host of the lab, and undone. Synchronous; `vdc.lab.api` adds the lock.

Nothing is remembered about a fault: it is in the kernel, and read back from there.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

from vdc.lab import cgroups, impairment, kernel, network
from vdc.lab.agents import recorded_agent, start_agent
from vdc.lab.impairment import WireState
from vdc.lab.models import Direction
from vdc.lab.plan import HostPlan, LabPlan, Underlay
from vdc.lab.processes import Process, check_outside, is_running, kill_all, processes_of, signal_all
from vdc.lab.settings import Settings
from vdc.model.errors import RefusedError, UnavailableError

_STOP_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Healed:
    """What `heal` had to do, in sentences."""

    sentences: tuple[str, ...]
    is_agent_started: bool


def host_processes(host: HostPlan) -> tuple[Process, ...]:
    """Everything that runs on a host now."""
    inode = kernel.namespace_inode(host.namespace)
    return processes_of({inode} if inode else (), cgroups.pids(host))


def wires(plan: LabPlan, host: HostPlan) -> dict[Underlay, WireState]:
    """Both wires of a host."""
    return {underlay: impairment.wire_state(plan, host, underlay) for underlay in Underlay}


def is_off(states: dict[Underlay, WireState]) -> bool:
    """Whether the host has no power: both of its ports are down."""
    return not any(state.is_up for state in states.values())


def is_paused(processes: Iterable[Process]) -> bool:
    """Whether every process of the host is stopped (a single stopped one is some other test's business)."""
    found = list(processes)
    return bool(found) and all(process.state == "T" for process in found)


def power_off(plan: LabPlan, host: HostPlan, settings: Settings) -> str:
    """Links first, so that no FIN and no RST gets out, then SIGKILL to everything until nothing is left."""
    inode = kernel.namespace_inode(host.namespace)
    check_outside({inode} if inode else ())
    impairment.cut_power(plan, host)
    cgroups.kill(host)
    kill_all(lambda: host_processes(host), settings.kill_deadline_s)
    return f"{host.name} has lost its power"


def partition(plan: LabPlan, host: HostPlan, underlays: Iterable[Underlay], direction: Direction) -> str:
    """Drop frames in silence on these networks; carrier stays."""
    names = list(underlays)
    _check_power(plan, host)
    for underlay in names:
        impairment.partition(plan, host, underlay, direction)
    what = {
        Direction.IN: "nothing reaches it",
        Direction.OUT: "nothing leaves it",
        Direction.BOTH: "nothing reaches or leaves it",
    }[direction]
    return f"{host.name} is cut off on {' and '.join(names)}: {what}"


def pause(plan: LabPlan, host: HostPlan) -> str:
    """SIGSTOP to everything on the host, those that were forked meanwhile too."""
    _check_power(plan, host)
    end = time.monotonic() + _STOP_DEADLINE_S
    while running := [process for process in host_processes(host) if process.state != "T"]:
        if time.monotonic() > end:
            names = ", ".join(f"{process.comm} ({process.pid})" for process in running)
            raise UnavailableError(
                f"these processes of {host.name} do not stop: {names}", code="process-stuck"
            )
        signal_all(running, signal.SIGSTOP)
    return f"{host.name} is paused"


def flap(  # noqa: PLR0917 - what, where, how
    plan: LabPlan,
    host: HostPlan,
    underlays: Iterable[Underlay],
    direction: Direction,
    times: int,
    period_s: float,
) -> str:
    """Cut these networks and mend them again, each for half of a period; whole again when it returns."""
    names = list(underlays)
    _check_power(plan, host)
    at = time.monotonic()
    try:
        for _ in range(times):
            for half, change in ((0.5, _cut), (1.0, _mend_only)):
                for underlay in names:
                    change(plan, host, underlay, direction)
                time.sleep(max(0.0, at + half * period_s - time.monotonic()))
            at += period_s
    finally:
        for underlay in names:
            impairment.heal(plan, host, underlay)
    return f"{host.name} was cut off {times} times on {' and '.join(names)}"


def _cut(plan: LabPlan, host: HostPlan, underlay: Underlay, direction: Direction) -> None:
    impairment.partition(plan, host, underlay, direction)


def _mend_only(plan: LabPlan, host: HostPlan, underlay: Underlay, _: Direction) -> None:
    impairment.heal(plan, host, underlay)


def slow(plan: LabPlan, host: HostPlan, bits_per_s: int) -> str:
    """Limit both wires of the host, both ways."""
    _check_power(plan, host)
    for underlay in Underlay:
        impairment.slow(plan, host, underlay, bits_per_s)
    return f"{host.name} has {bits_per_s / 1e6:g} Mbit/s on each network"


def heal(plan: LabPlan, host: HostPlan, settings: Settings) -> Healed:
    """Undo every fault. A host without power gets new wires and its agent its old state folder."""
    done = []
    states = wires(plan, host)
    if is_off(states):
        kill_all(lambda: host_processes(host), settings.kill_deadline_s)  # a power-off that did not finish
        network.power_on(plan, host)
        done.append(f"{host.name} has power again")
    else:
        done += _mend(plan, host, states)
    if stopped := [process for process in host_processes(host) if process.state == "T"]:
        signal_all(stopped, signal.SIGCONT)
        done.append(f"{host.name} goes on")
    is_agent_dead = not is_running(recorded_agent(host))
    if is_agent_dead:
        start_agent(host, settings)
        done.append(f"the agent of {host.name} was started")
    return Healed(tuple(done), is_agent_dead)


def _mend(plan: LabPlan, host: HostPlan, states: dict[Underlay, WireState]) -> list[str]:
    whole = WireState(is_up=True)
    broken = [underlay for underlay, state in states.items() if state != whole]
    for underlay in broken:
        if not states[underlay].is_up:
            network.replug(plan, host, underlay)
        impairment.heal(plan, host, underlay)
    return [f"{host.name} has its {underlay} network back" for underlay in broken]


def _check_power(plan: LabPlan, host: HostPlan) -> None:
    if is_off(wires(plan, host)):
        raise RefusedError(
            f"{host.name} has no power",
            hint=f"give it power again: vdc lab fault heal {host.name}",
            code="host-off",
        )
