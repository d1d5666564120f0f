"""The lab as a library: `up`, `down`, `status`, `fault`, `exec_argv`, `list_labs`.

Nothing here prints; `progress` gets a short sentence per step. Everything that changes a lab holds its lock.
Errors are those of `vdc.model.errors`; not being root is `RefusedError` (`needs-root`) everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from vdc.lab import bringup, faults, lifecycle, survey
from vdc.lab.agents import launch_argv
from vdc.lab.files import locked
from vdc.lab.impairment import parse_rate
from vdc.lab.kernel import NETNS_FOLDER, in_thread
from vdc.lab.models import Direction, FaultKind, LabStatus
from vdc.lab.network import read_marker
from vdc.lab.plan import (
    CLIENT,
    DEFAULT_HOSTS,
    HostPlan,
    LabPlan,
    Underlay,
    lab_folder,
    lab_of_namespace,
    make_plan,
    marker,
)
from vdc.lab.settings import Settings, check_root
from vdc.model.errors import BugError, InvalidError, RefusedError

E = TypeVar("E", bound=StrEnum)
Progress = Callable[[str], None]

FLAP_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class _Details:
    underlays: tuple[Underlay, ...]
    direction: Direction
    bits_per_s: int
    times: int


def _silent(_: str) -> None:
    """A progress that nobody watches."""


async def up(
    name: str,
    hosts: int | None = None,
    progress: Progress = _silent,
    memory: int | None = None,
    wait: bool = True,
    *,
    keep: bool = False,
    witness: bool = False,
    settings: Settings | None = None,
) -> LabStatus:
    """Bring a lab up, or repair it: faults are healed, dead agents started, a broken lab is made anew.

    `hosts`: 1 to 8 (three, or as many as the lab has); `memory`: bytes that each host may give to guests;
    `witness`: one more that votes and runs no guests; `wait`: until the cluster has a leader;
    `keep`: leave everything in place where it fails, to look at it.
    Raises `RefusedError` (`runtime-missing`, `agent-missing`), `ConflictError` (`lab-hosts-differ`,
    `lab-foreign`, `lab-busy`), `UnavailableError` (`agent-silent`, `cluster-not-ready`).
    """
    check_root()
    settings = settings or Settings.from_environment()
    make_plan(name, hosts if hosts is not None else DEFAULT_HOSTS, settings.state_root)
    settings.runtime()
    settings.check_agent()
    folder = lab_folder(settings.state_root, name)
    async with locked(folder, settings.lock_deadline_s, progress):
        await bringup.bring_up(name, hosts, memory, settings, progress, wait=wait, keep=keep, witness=witness)
        return await in_thread(lambda: survey.lab_status(name, settings))


async def down(name: str, progress: Progress = _silent, *, settings: Settings | None = None) -> None:
    """Take away whatever there is of a lab: processes, namespaces, groups, context, files. Safe to repeat."""
    check_root()
    settings = settings or Settings.from_environment()
    if not await in_thread(lambda: lifecycle.anything_left(name, settings)):
        progress(f"there is no lab {name}")
        return
    async with locked(lab_folder(settings.state_root, name), settings.lock_deadline_s, progress):
        killed = await in_thread(lambda: lifecycle.tear_down(name, settings))
    progress(f"lab {name} is gone ({killed} processes ended)")


async def status(name: str, *, settings: Settings | None = None) -> LabStatus:
    """What there is of a lab; state `down` where there is nothing."""
    check_root()
    settings = settings or Settings.from_environment()
    return await in_thread(lambda: survey.lab_status(name, settings))


async def fault(
    name: str,
    kind: FaultKind | str,
    host: str | None = None,
    *,
    network: str = "all",
    direction: Direction | str = Direction.BOTH,
    rate: str | None = None,
    times: int = 10,
    progress: Progress = _silent,
    settings: Settings | None = None,
) -> LabStatus:
    """Do something to a host (`heal` without a host: to all). `direction` is as the host sees it.

    `flap` cuts and mends the network `times`, once a second, and returns when that is over.

    Raises `NotFoundError` (`lab-not-found`, `lab-host-not-found`), `InvalidError` for arguments that make no
    sense, `RefusedError` (`host-off`) for a fault of a host that has no power.
    """
    check_root()
    settings = settings or Settings.from_environment()
    kind = _choice(FaultKind, kind, "a fault", "fault-invalid")
    details = _details(network, direction, rate, times)
    if host is None and kind is not FaultKind.HEAL:
        raise InvalidError(f"{kind} needs a host", code="host-missing")
    if rate is None and kind is FaultKind.SLOW:
        raise InvalidError("slow needs a rate", hint="for example --rate 1mbit", code="rate-missing")
    survey.recorded_plan(name, settings)
    async with locked(lab_folder(settings.state_root, name), settings.lock_deadline_s, progress):
        plan, _ = survey.recorded_plan(name, settings)
        targets = plan.hosts if host is None else (plan.host(host),)
        if kind is FaultKind.HEAL:
            await bringup.heal_hosts(plan, targets, settings, progress)
        else:
            progress(await in_thread(lambda: _strike(plan, targets[0], kind, details, settings)))
        return await in_thread(lambda: survey.lab_status(name, settings))


def exec_argv(name: str, host: str, command: Sequence[str], *, settings: Settings | None = None) -> list[str]:
    """The command line that runs `command` on a host, or in `client`; the caller starts it, and owns it."""
    check_root()
    settings = settings or Settings.from_environment()
    if not command:
        raise InvalidError(
            "there is no command to run", hint="vdc lab exec HOST -- COMMAND", code="command-missing"
        )
    plan, _ = survey.recorded_plan(name, settings)
    if host == CLIENT:
        return launch_argv(plan.client_namespace, list(command))
    target = plan.host(host)
    if faults.is_off(faults.wires(plan, target)):
        raise RefusedError(f"{host} has no power", hint=f"vdc lab fault heal {host}", code="host-off")
    return launch_argv(target.namespace, list(command))


def list_labs(*, settings: Settings | None = None) -> tuple[str, ...]:
    """The names of all labs of this state folder that exist, whole or in part."""
    check_root()
    settings = settings or Settings.from_environment()
    folder = settings.state_root / "lab"
    names = {path.parent.name for path in folder.glob("*/lab.json")}
    for namespace in os.listdir(NETNS_FOLDER) if NETNS_FOLDER.is_dir() else ():  # noqa: PTH208 - names are enough
        lab = lab_of_namespace(namespace)
        if lab and read_marker(namespace) == marker(lab, lab_folder(settings.state_root, lab)):
            names.add(lab)
    return tuple(sorted(names))


def _strike(plan: LabPlan, host: HostPlan, kind: FaultKind, details: _Details, settings: Settings) -> str:
    match kind:
        case FaultKind.POWER_OFF:
            return faults.power_off(plan, host, settings)
        case FaultKind.PARTITION:
            return faults.partition(plan, host, details.underlays, details.direction)
        case FaultKind.PAUSE:
            return faults.pause(plan, host)
        case FaultKind.FLAP:
            return faults.flap(plan, host, details.underlays, details.direction, details.times, FLAP_PERIOD_S)
        case FaultKind.SLOW:
            return faults.slow(plan, host, details.bits_per_s)
        case FaultKind.HEAL:
            raise BugError("heal is not a fault")


def _details(network: str, direction: str, rate: str | None, times: int) -> _Details:
    known = ", ".join((*Underlay, "all"))
    if network != "all" and network not in tuple(Underlay):
        raise InvalidError(
            f"{network[:40]!r} is not a network", hint=f"one of: {known}", code="network-invalid"
        )
    return _Details(
        underlays=tuple(Underlay) if network == "all" else (Underlay(network),),
        direction=_choice(Direction, direction, "a direction", "direction-invalid"),
        bits_per_s=parse_rate(rate) if rate is not None else 0,
        times=times,
    )


def _choice(choices: type[E], value: str, what: str, code: str) -> E:
    try:
        return choices(value)
    except ValueError:
        known = ", ".join(choices)
        raise InvalidError(f"{value[:40]!r} is not {what}", hint=f"one of: {known}", code=code) from None
