"""A bare pair on one machine: real QEMUs, one throw-away network namespace, no agent.

The namespace holds a bridge, one tap per copy and the clients' sockets; the copies talk over its loopback.
Used by the lockstep tests, and by the benchmark as the baseline that the agent is compared with.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from lockstep_clients import ECHO, STORE, TALK, wait_for
from packet_probes import inside
from throwaway_namespace import LOCAL, Namespace

from hostagent.drivers.disk.copy import DiskSet, DiskSource, disk_specs, names
from hostagent.drivers.disk.images import QemuImg
from hostagent.drivers.net import close_taps, open_taps
from hostagent.drivers.net.nudge import Nudger
from hostagent.drivers.process.users import own_by
from hostagent.drivers.qemu import argv, handover, primary, secondary
from hostagent.drivers.qemu.checkpoints import CheckpointMeter
from hostagent.drivers.qemu.credentials import PairFiles
from hostagent.drivers.qemu.incoming import Incoming
from hostagent.drivers.qemu.plan import LockstepPlan, LockstepPorts
from hostagent.drivers.qemu.qmp import QmpSession
from hostagent.drivers.qemu.sandbox import sandboxed
from hostagent.drivers.qemu.sockets import Network, tcp_socket
from hostagent.drivers.qemu.spec import IMAGE_DIR, KernelBoot, MachineSpec, NicSpec
from hostagent.supervisor.confinement import guest_user
from vdc.security.pairs import KeyAndRequest, qemu_files

MIB = 1024**2
CACHE = Path(os.environ.get("VDC_CACHE_DIR", "/var/cache/vdc"))
RUNTIME = CACHE / "runtime" / "current"
MINI = CACHE / "images" / "mini" / "current"
GUEST_ADDRESS = "10.99.0.10"
GUEST_UID = 1_900_100_000
PROMPT_MS = 10_000  # no timeout of a network was waited for; the benchmarks measure how long it takes


def missing() -> str:
    """Why no pair can be run here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root (network namespaces, taps)"
    for path in (RUNTIME / "manifest.json", MINI / "image.json", Path("/dev/net/tun")):
        if not path.exists():
            return f"needs {path} (make setup)"
    return "" if shutil.which("bwrap") else "needs bwrap"


@dataclass
class Copy:
    """One QEMU of the pair."""

    name: str
    folder: Path
    taps: tuple[str, ...]
    disks: DiskSet
    process: asyncio.subprocess.Process
    pid: int
    qmp: QmpSession
    was_promoted: bool = False
    incoming: Incoming | None = None
    meter: CheckpointMeter = field(default_factory=CheckpointMeter)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> None:
        if self.incoming is not None:
            self.incoming.close()
        self.signal(signal.SIGKILL)

    def serial(self) -> str:
        return (self.folder / "serial.log").read_text(errors="replace")


class Pair:
    """The bench: start copies, protect, lose one, and so on. `close` removes all of it."""

    def __init__(self, *, disks: int = 1, nics: int = 1, memory_bytes: int = 256 * MIB, **spec: Any) -> None:
        self.disks, self.nics, self.memory_bytes, self.spec_changes = disks, nics, memory_bytes, spec
        self.uid = "6f1f2a8e-5a5c-4a39-9d5e-0c6f1e0f7a01"
        self.epoch = 0
        self.slot = 0
        self.copies: list[Copy] = []
        self.pids: list[int] = []  # of every QEMU that was started and not reaped
        self.folder = Path(tempfile.mkdtemp(prefix="vdct-"))
        self.authorities = Path(tempfile.mkdtemp(prefix="vdct-"))
        self.namespace = Namespace(nics)
        self.network = Network(lambda: inside(self.namespace.name, tcp_socket))
        self._nudger = inside(self.namespace.name, Nudger)
        self.story: list[str] = []  # of the latest switch, with milliseconds since its beginning
        self.prepare_folder: Callable[[Path], object] = lambda folder: None
        self._count = itertools.count(1)

    async def __aenter__(self) -> Pair:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        for copy in self.copies:
            copy.end()
            await copy.qmp.close()
            await copy.process.wait()
            self.pids.remove(copy.pid)
        for pid in self.pids:  # one that started and never got as far as being a copy
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._nudger.close()
        self.namespace.remove()
        for folder in (self.folder, self.authorities):
            shutil.rmtree(folder, ignore_errors=True)

    # -- copies

    async def start_primary(self) -> Copy:
        return await self._start("primary")

    async def start_secondary(self) -> Copy:
        return await self._start("secondary")

    async def _start(self, role: str) -> Copy:
        number = next(self._count)
        name = f"q{number}"
        folder = self.folder / name
        folder.mkdir()
        self.prepare_folder(folder)
        own_by(folder, GUEST_UID + number)
        disks = DiskSet(QemuImg(RUNTIME, folder, MINI), folder)
        record = await self._make_disks(disks, role)
        taps = tuple(f"t{number}n{j}" for j in range(self.nics))
        for j, tap in enumerate(taps):
            self.namespace.add_tap(tap)
            if role == "primary":
                self.namespace.join(tap, j)
        spec = self.machine(taps, disk_specs(record, self.disks))
        opened = inside(self.namespace.name, lambda: open_taps(taps))
        try:
            descriptors = [tap.fileno() for tap in opened]
            command = (argv.primary_argv if role == "primary" else argv.secondary_argv)(spec, descriptors)
            copy = await self._spawn(name, folder, command, taps, disks, descriptors)
        finally:
            close_taps(opened)
        copy.qmp.add_listener(copy.meter.on_event)
        copy.qmp.add_listener(
            lambda event, _data, _at: self._nudger.nudge(copy.taps) if event == "RESUME" else None
        )
        self.copies.append(copy)
        return copy

    async def _make_disks(self, disks: DiskSet, role: str) -> Any:
        if role == "primary":
            sources = [DiskSource(None, "disk.qcow2")]
            sources += [DiskSource(64 * MIB) for _ in range(1, self.disks)]
            return await disks.create_primary(self.uid, 1, sources[: self.disks])
        first = self.copies[0].disks
        return await disks.create_secondary(self.uid, self.epoch + 1, await first.virtual_sizes())

    def machine(self, taps: tuple[str, ...], disks: tuple[Any, ...]) -> MachineSpec:
        image = json.loads((MINI / "image.json").read_text())
        cmdline = f"{image['cmdline']} vdc.ip={GUEST_ADDRESS}/24 vdc.hostname=bench"
        boot = KernelBoot(f"{IMAGE_DIR}/{image['kernel']}", f"{IMAGE_DIR}/{image['initrd']}", cmdline)
        nics = tuple(NicSpec(tap, f"52:54:00:99:00:{j:02x}") for j, tap in enumerate(taps))
        spec = MachineSpec("bench", self.uid, 1, self.memory_bytes, boot, disks=disks, nics=nics)
        return replace(spec, **self.spec_changes)

    async def _spawn(
        self,
        name: str,
        folder: Path,
        command: list[str],
        taps: tuple[str, ...],
        disks: DiskSet,
        descriptors: list[int],
    ) -> Copy:
        reader, writer = os.pipe()
        full = sandboxed(
            command, guest_user(folder), runtime_root=RUNTIME, vm_dir=folder, image_dir=MINI, status_fd=writer,
        )  # fmt: skip
        with (folder / "qemu.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *full, pass_fds=(writer, *descriptors), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                restore_signals=False,  # as the agent starts it: a file-size limit is an error, not the end
            )  # fmt: skip
        os.close(writer)
        try:
            pid = json.loads(await asyncio.to_thread(_first_line, reader))["child-pid"]
            self.pids.append(pid)
            qmp = await QmpSession.connect(folder / "qmp.sock", name=name, is_starting=True)
        except Exception as error:
            raise RuntimeError(f"QEMU did not start: {(folder / 'qemu.log').read_text()}") from error
        finally:
            os.close(reader)
        return Copy(name, folder, taps, disks, process, pid, qmp)

    # -- lockstep

    def plan(self, prime: Copy, **changes: Any) -> LockstepPlan:
        ports = LockstepPorts.for_slot(self.slot, self.epoch)
        plan = LockstepPlan(
            self.epoch, self.disks, self.nics, LOCAL, LOCAL, ports, insert_behind_rewriter=prime.was_promoted
        )
        return replace(plan, **changes)

    async def protect(
        self,
        prime: Copy,
        second: Copy,
        *,
        deadline_s: float = 60,
        progress: Callable[[float], None] = lambda _: None,
        **changes: Any,
    ) -> tuple[LockstepPlan, primary.EntryReport]:
        self.epoch += 1
        plan = self.plan(prime, **changes)
        prime.meter.restart(time.monotonic())
        await self.prepare(prime, second, plan)
        report = await self.enter_plan(prime, plan, progress=progress, deadline_s=deadline_s)
        return plan, report

    async def prepare(self, prime: Copy, second: Copy, plan: LockstepPlan) -> None:
        """Both sides of a protection until the memory is awaited."""
        self.give_credentials(prime, second)
        await primary.open_channels(prime.qmp, plan, network=self.network)
        second.incoming = await secondary.prepare(second.qmp, plan, network=self.network)

    def give_credentials(self, prime: Copy, second: Copy) -> None:
        """What both agents agree on under this epoch."""
        own, other = self.files(prime), self.files(second)
        own.make(self.epoch)
        request = KeyAndRequest.make()
        other.keep(self.epoch, qemu_files(*own.sign(self.epoch, request.request), request.key))

    def files(self, copy: Copy) -> PairFiles:
        return PairFiles(copy.folder, self.authorities, self.uid)

    async def enter_plan(self, prime: Copy, plan: LockstepPlan, **options: Any) -> primary.EntryReport:
        return await primary.enter(
            prime.qmp, plan, network=self.network, **{"progress": lambda _: None, "deadline_s": 60, **options}
        )

    async def in_sync(self, prime: Copy, second: Copy, *, checkpoints: int = 3) -> None:
        await wait_for(lambda: prime.meter.count >= checkpoints, "checkpoints", 15)
        await second.disks.in_sync(self.disks)

    async def kill(self, copy: Copy) -> None:
        copy.end()
        await copy.qmp.close()
        await copy.process.wait()
        self.pids.remove(copy.pid)
        self.copies.remove(copy)
        for tap in copy.taps:
            self.namespace.ip("link", "delete", tap)

    async def take_over(self, second: Copy, plan: LockstepPlan) -> dict[str, float]:
        """Promote; the taps join the bridges at the same time, as the agent does it."""
        self.epoch += 1
        await second.disks.promoted(self.epoch, self.disks)
        joining = asyncio.to_thread(self._join, second)
        figures, _ = await asyncio.gather(secondary.promote(second.qmp, plan), joining)
        await secondary.announce(second.qmp)
        await secondary.refresh_code(second.qmp)
        self._nudger.nudge(second.taps)
        second.was_promoted = True
        return figures

    async def switch(self, prime: Copy, second: Copy, plan: LockstepPlan) -> bool:
        """A planned promotion, in the steps of the supervisor; whether the cut was clean (else packets may be lost)."""
        self._tell_story(prime, second)
        hold = handover.Hold(second.qmp, plan, now=time.monotonic)
        try:
            for _ in range(3):
                await handover.fence(prime.qmp, plan)
                if await hold.is_set():
                    break
            self.lap("held")
            self._nudger.nudge(second.taps)
            self.epoch += 1
            await second.disks.promoted(self.epoch, self.disks)
            await secondary.cut(second.qmp)
            is_clean = hold.is_clean
        finally:
            await hold.close()
        if not is_clean:
            await handover.drop_hold(second.qmp, plan)
            await self.take_over(second, plan)
            return False
        await handover.shut_comparison(second.qmp, plan)
        await asyncio.to_thread(self._join, second)
        self.lap("heard")
        await handover.open_output(second.qmp, plan)
        self.lap("speaks")
        await secondary.announce(second.qmp)
        await secondary.promote(second.qmp, plan, keep_listening=True)
        self._nudger.nudge(second.taps)
        self.lap("left lockstep")
        await asyncio.sleep(0.15)
        await secondary.refresh_code(second.qmp)
        self._nudger.nudge(second.taps)
        self.lap("code refreshed")
        await asyncio.sleep(0.2)
        await handover.stop_listening(second.qmp, plan)
        self.lap("listens no more")
        second.was_promoted = True
        return True

    def _join(self, copy: Copy) -> None:
        for j, tap in enumerate(copy.taps):
            self.namespace.join(tap, j)

    def _tell_story(self, prime: Copy, second: Copy) -> None:
        self.story.clear()
        self._story_began = time.monotonic()
        for copy, role in ((prime, "P"), (second, "S")):
            copy.qmp.add_listener(
                lambda event, _data, _at, role=role: (  # type: ignore[misc]
                    self.lap(f"{role} {event}") if event in ("STOP", "RESUME") else None
                )
            )

    def lap(self, what: str) -> None:
        """Note a step of the story."""
        self.story.append(f"{what} {(time.monotonic() - self._story_began) * 1000:.0f}")

    async def settle(self, second: Copy, plan: LockstepPlan) -> None:
        await secondary.settle(second.qmp, plan)
        await second.disks.settled()
        assert not (second.folder / names(0).active).exists()

    async def guest_is_up(self, *, deadline_s: float = 60) -> None:
        """Wait until the guest takes connections on all ports that the clients use."""
        limit = time.monotonic() + deadline_s
        while True:
            try:
                for port in (ECHO, TALK, STORE):  # the store's process opens its port by itself
                    await asyncio.to_thread(self._knock, port)
                return
            except OSError:
                if time.monotonic() > limit:
                    raise
                await asyncio.sleep(0.2)

    def _knock(self, port: int) -> None:
        self.namespace.connect(GUEST_ADDRESS, port, deadline_s=1).close()

    async def open(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = await asyncio.to_thread(self.namespace.connect, GUEST_ADDRESS, port)
        return await asyncio.open_connection(sock=sock)


def _first_line(descriptor: int) -> bytes:
    """bwrap writes its status in pieces."""
    line = b""
    while not line.endswith(b"}\n") and (more := os.read(descriptor, 4096)):
        line += more
    return line
