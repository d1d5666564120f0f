"""The lab that is measured, its VM, and waiting for both; everything is gone after `World.close`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from hostagent.drivers.process.users import GUEST_DIR
from hostagent.drivers.qemu.spec import SERIAL_LOG
from vdc.api.client import ApiClient
from vdc.api.models import EndophyteView
from vdc.api.transport import Deadlines
from vdc.lab import api as lab_api
from vdc.lab import faults, survey
from vdc.lab.models import LabStatus
from vdc.lab.plan import LabPlan
from vdc.lab.processes import Process
from vdc.lab.settings import Settings
from vdc.model.endophyte import Phase, Protection
from vdc.model.errors import NotFoundError, UnavailableError, VdcError
from vdc.model.event import Event
from vdc.model.manifest import EndophyteManifest

LAB = "bench"
NAME = "bench"
IMAGE = "mycelium/mini"
CLIENT = Path(__file__).with_name("client.py")
DEADLINE_S = 90.0
ECHO = 7
POLL_S = 0.1
SETTLE_S = 1.0
CRASH = re.compile(r"Kernel panic|BUG: |Oops: |general protection fault")
_EVENTS = 200

T = TypeVar("T")
Say = Callable[[str], None]
Disks = Sequence[Mapping[str, object]]  # as in a manifest


class BenchError(UnavailableError):
    """Something did not happen that has to, so there is nothing to measure."""

    default_code = "bench-failed"


class World:
    """One lab of three hosts with at most one VM."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.settings = Settings.from_environment()
        self.status: LabStatus | None = None
        self.crashes: list[str] = []  # of guests, found on their consoles when they were deleted
        self._client: ApiClient | None = None

    async def __aenter__(self) -> Self:
        """Bring the lab up anew; whatever an earlier run left goes first."""
        try:
            await lab_api.down(LAB)
            self.status = await lab_api.up(LAB, None, self.say)
            await self.ask_others_than(None)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Take the lab away, even while this is being cancelled."""
        if self._client is not None:
            await self._client.close()
        ending = asyncio.create_task(lab_api.down(LAB, self.say), name="lab-down")
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await asyncio.wait([ending])
            raise

    async def ask_others_than(self, host: str | None) -> None:
        """A host that is cut off knows only what was."""
        assert self.status is not None
        if self._client is not None:
            await self._client.close()
        sockets = [f"unix://{one.api_socket}" for one in self.status.hosts if one.name != host]
        self._client = ApiClient(sockets, deadlines=Deadlines(last_s=5.0))

    # ---- parts

    @property
    def api(self) -> ApiClient:
        assert self._client is not None
        return self._client

    @property
    def plan(self) -> LabPlan:
        """Names, folders and addresses."""
        return survey.recorded_plan(LAB, self.settings)[0]

    def client_argv(self, *arguments: object) -> list[str]:
        """The measuring client as a command for the client's namespace."""
        words = [sys.executable, "-I", "-S", str(CLIENT), *map(str, arguments)]
        return lab_api.exec_argv(LAB, "client", words)

    async def qemu(self, host: str) -> Process:
        """The QEMU process on a host."""
        found = await asyncio.to_thread(lambda: faults.host_processes(self.plan.host(host)))
        qemus = [process for process in found if process.comm.startswith("qemu-system")]
        if len(qemus) != 1:
            raise BenchError(f"{len(qemus)} QEMUs on {host}")
        return qemus[0]

    async def versions(self) -> tuple[str, str]:
        """QEMU's version and the accelerator, as the hosts say."""
        host = (await self.api.list_nodes()).items[0].host
        return host.qemu.version, host.accelerator.name

    # ---- the VM

    async def create(
        self, memory: str = "256MiB", disks: Disks = (), *, name: str = NAME, **more: object
    ) -> None:
        """Create a VM and return at once; `more` of its spec."""
        spec = {"image": IMAGE, "resources": {"cpus": 1, "memory": memory}, "disks": list(disks), **more}
        manifest = {
            "apiVersion": "mycelium.network/v1",
            "kind": "Endophyte",
            "metadata": {"name": name},
            "spec": spec,
        }
        await self.api.create_endophyte(EndophyteManifest.model_validate(manifest))

    async def delete(self, name: str = NAME) -> None:
        """Delete a VM, if there is one, and wait until it is gone; its consoles are read first."""
        self.crashes += await asyncio.to_thread(self._crashes, name)
        with suppress(NotFoundError):
            await self.api.delete_endophyte(name)

            async def is_gone() -> bool:
                try:
                    await self.api.get_endophyte(name)
                except NotFoundError:
                    return True
                return False

            await until(is_gone, f"the end of {name}")

    def _crashes(self, name: str) -> list[str]:
        """Which copies' consoles show a crash of the guest's kernel."""
        found = []
        for host in self.plan.hosts:
            with suppress(OSError):
                text = (host.state_dir / "vms" / name / GUEST_DIR / SERIAL_LOG).read_text(errors="replace")
                if line := next((line for line in text.splitlines() if CRASH.search(line)), ""):
                    found.append(f"the guest's copy on {host.name} crashed: {line.strip()[:100]}")
        return found

    @asynccontextmanager
    async def protected(self, memory: str = "256MiB", disks: Disks = ()) -> AsyncIterator[str]:
        """A VM for the time of the block, protected once its guest has booted; its address."""
        await self.delete()
        await self.create(memory, disks)
        try:
            await self.unprotect()
            address = (await self.view()).status.addresses[0]
            await self.answers(address)
            await self.protect()
            yield address
        finally:
            await asyncio.shield(self.delete())

    async def view(self, name: str = NAME) -> EndophyteView:
        return await self.api.get_endophyte(name)

    async def protection(self, wanted: Protection, name: str = NAME) -> EndophyteView:
        """Wait for a state of protection."""
        found: list[EndophyteView] = []

        async def is_there() -> bool:
            found[:] = [await self.view(name)]
            return found[0].status.protection is wanted

        what = f"protection {wanted}"
        await until(is_there, lambda: f"{what}: {found[0].status.sentence if found else ''}")
        return found[0]

    async def lockstep(self, name: str = NAME) -> EndophyteView:
        return await self.protection(Protection.LOCKSTEP, name)

    async def protect(self) -> None:
        await self.api.protect_endophyte(NAME, enabled=True)
        await self.lockstep()
        await asyncio.sleep(SETTLE_S)

    async def unprotect(self) -> None:
        """Until the secondary is gone too: the next one must not wait for its end."""
        await self.api.protect_endophyte(NAME, enabled=False)

        async def is_alone() -> bool:
            status = (await self.view()).status
            has_started = status.phase is Phase.RUNNING
            return has_started and status.secondary is None and status.protection is not Protection.LOCKSTEP

        await until(is_alone, "the end of protection")
        await asyncio.sleep(SETTLE_S)

    async def primary(self) -> str:
        """The primary's host."""
        copy = (await self.view()).status.primary
        if copy is None:
            raise BenchError(f"{NAME} has no primary")
        return copy.host

    async def answers(self, address: str, port: int = ECHO) -> None:
        """Wait until a service of the guest answers."""
        argv = self.client_argv("wait", address, port, DEADLINE_S)
        if (await run(argv, timeout_s=DEADLINE_S + 45, is_checked=False)).returncode:
            raise BenchError(f"{address} did not answer within {DEADLINE_S:.0f} s")

    async def event(self, code: str, since: float) -> Event:
        """The first event with this code after `since` (seconds since the epoch)."""
        found: list[Event] = []

        async def is_there() -> bool:
            items = (await self.api.list_events(NAME, limit=_EVENTS)).items
            found[:] = [event for event in items if event.code == code and wall_s(event) >= since]
            return bool(found)

        await until(is_there, f"the event {code}")
        return found[0]

    # ---- the hosts

    async def heal(self) -> None:
        """Undo every fault; returns when the cluster is whole and each host can be given a copy."""
        await lab_api.fault(LAB, "heal")
        await lab_api.up(LAB)
        await self.ask_others_than(None)

        async def is_whole() -> bool:
            nodes = (await self.api.list_nodes()).items
            return all(node.alive and node.etcd in ("leader", "member") for node in nodes)

        await until(is_whole, "all hosts usable")


async def until(
    condition: Callable[[], Awaitable[bool]],
    what: str | Callable[[], str],
    deadline_s: float = DEADLINE_S,
    every_s: float = POLL_S,
) -> None:
    """Ask until it is so; an agent that does not answer at the moment is asked again. Raises BenchError."""
    trouble = ""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        try:
            if await condition():
                return
        except NotFoundError:
            raise
        except VdcError as error:
            trouble = f" ({error})"
        await asyncio.sleep(every_s)
    sentence = what if isinstance(what, str) else what()
    raise BenchError(f"not within {deadline_s:.0f} s: {sentence}{trouble}")


async def run(
    argv: Sequence[str], *, timeout_s: float, is_checked: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; raises BenchError with its complaint."""

    def work() -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)

    done = await asyncio.to_thread(work)
    if is_checked and done.returncode:
        raise BenchError(f"{Path(argv[-1]).name}: {done.stderr.strip()[-300:]}")
    return done


async def rate(world: World, address: str, service: str, seconds: float) -> dict[str, Any]:
    """One closed loop from the lab's client to a guest: `p50_ms`, `p95_ms`, `requests`, `per_s`."""
    done = await run(world.client_argv("rate", address, service, seconds), timeout_s=seconds + 45)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wall_s(event: Event) -> float:
    """When an event happened, in seconds since the epoch."""
    return datetime.fromisoformat(event.at).timestamp()


def monotonic_of(wall: float) -> float:
    """The same moment on the clock of the traces."""
    return wall - time.time() + time.monotonic()


def use_own_context(folder: Path) -> None:
    """The command line's context of whoever runs this stays as it is."""
    os.environ["VDC_CONFIG"] = str(folder / "config.yaml")
