"""What can be found out without any agent, and the question to every agent of a context."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vdc.api.client import ApiClient
from vdc.api.context import Context
from vdc.api.models import Check, DoctorReport
from vdc.model.errors import VdcError

THIS_MACHINE = "(here)"
_QEMU = "usr/bin/qemu-system-x86_64"


def runtime_root() -> Path:
    """Where `make runtime` puts it."""
    return Path(os.environ.get("VDC_CACHE_DIR", "/var/cache/vdc")) / "runtime" / "current"


@dataclass(frozen=True, slots=True)
class Machine:
    """What the checks ask of the machine; tests give another one."""

    user_id: Callable[[], int] = os.geteuid
    exists: Callable[[Path], bool] = Path.exists
    which: Callable[[str], str | None] = shutil.which
    runtime_root: Callable[[], Path] = runtime_root


def examine_machine(machine: Machine | None = None) -> DoctorReport:
    """The checks that work without any agent."""
    return DoctorReport(host=THIS_MACHINE, checks=tuple(_local_checks(machine or Machine())))


def _local_checks(machine: Machine) -> Iterator[Check]:
    is_root = machine.user_id() == 0
    not_root = Check(
        name="root", level="warning", sentence="not root, which vdc lab needs", hint="sudo vdc lab up"
    )
    yield Check(name="root", level="ok", sentence="running as root") if is_root else not_root
    runtime = machine.exists(machine.runtime_root() / _QEMU)
    own = machine.which("qemu-system-x86_64")
    found = "QEMU runtime root is there" if runtime else f"no QEMU runtime root, the system's own is {own}"
    yield _check("runtime", bool(runtime or own), found, "there is no QEMU runtime root", "make setup")
    tun = machine.exists(Path("/dev/net/tun"))
    yield _check("tun", tun, "/dev/net/tun is there", "/dev/net/tun is missing", "modprobe tun")
    namespaces = machine.exists(Path("/proc/self/ns/net"))
    absent = "the kernel has no network namespaces"
    yield _check("namespaces", namespaces, "network namespaces are there", absent, "another kernel is needed")
    for program in ("ip", "bwrap", "setpriv"):
        there = machine.which(program) is not None
        yield _check(program, there, f"{program} is installed", f"{program} is missing", "make setup")


def _check(name: str, is_ok: bool, good: str, bad: str, hint: str) -> Check:
    if is_ok:
        return Check(name=name, level="ok", sentence=good)
    return Check(name=name, level="error", sentence=bad, hint=hint)


async def examine_hosts(name: str, context: Context) -> list[DoctorReport]:
    """Ask every agent of a context at the same time; one that does not answer is a finding."""
    asked = (_examine_host(name, context, endpoint) for endpoint in context.endpoints)
    return list(await asyncio.gather(*asked))


async def _examine_host(name: str, context: Context, endpoint: str) -> DoctorReport:
    async with ApiClient.of(context, endpoint) as api:
        try:
            await asyncio.wait_for(api.health(), 3.0)
            return await api.doctor()
        except (VdcError, TimeoutError) as error:
            sentence = f"no answer from {endpoint}" if isinstance(error, TimeoutError) else str(error)
    hint = f"is its agent running? (context {name})"
    return DoctorReport(host="?", checks=(Check(name="agent", level="error", sentence=sentence, hint=hint),))
