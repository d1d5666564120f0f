"""The baseline: two QEMUs in lockstep without an agent, driven by the fewest commands, on the lab's hosts.

They are what the agent would start: its argv builder, sandbox, image, CPU model and control groups, taps on
the hosts' own overlay bridges, the replication network with its routes. So the difference to the product is
the agent alone. The agents know nothing of this pair; they must not run a VM meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostagent.drivers.disk.copy import CopyRecord, DiskSet, DiskSource, disk_specs
from hostagent.drivers.disk.images import QemuImg
from hostagent.drivers.net import close_taps, open_taps
from hostagent.drivers.net.names import bridge_name
from hostagent.drivers.process.spawn import StatusPipe
from hostagent.drivers.process.users import own_by
from hostagent.drivers.qemu import argv, primary, secondary
from hostagent.drivers.qemu.checkpoints import CheckpointMeter
from hostagent.drivers.qemu.credentials import PairFiles
from hostagent.drivers.qemu.plan import LAST_SLOT, LockstepPlan, LockstepPorts
from hostagent.drivers.qemu.qmp import QmpError, QmpSession
from hostagent.drivers.qemu.sandbox import sandboxed
from hostagent.drivers.qemu.sockets import Network, tcp_socket
from hostagent.drivers.qemu.spec import IMAGE_DIR, KernelBoot, MachineSpec, NicSpec
from hostagent.supervisor.confinement import guest_user
from tests.bench.world import BenchError, World, until
from vdc.lab import cgroups
from vdc.lab.kernel import in_namespace
from vdc.lab.plan import HostPlan, Underlay
from vdc.model.endophyte import MachineFacts
from vdc.model.units import MIB
from vdc.security.pairs import KeyAndRequest, qemu_files

MEMORY_BYTES = 256 * MIB
ADDRESS = "10.77.0.190"
MAC = "52:54:00:77:be:5c"
TAP = "vdcbare0"
GUEST_UID = 1_900_090_000
CHECKPOINTS = 3
DEADLINE_S = 60.0


@dataclass
class Copy:
    """One QEMU of the pair."""

    host: HostPlan
    folder: Path
    disks: DiskSet
    process: subprocess.Popen[bytes]
    pid: int
    qmp: QmpSession
    meter: CheckpointMeter = field(default_factory=CheckpointMeter)


class BarePair:
    """A primary on the first host, and a secondary on the second while it is protected."""

    def __init__(self, world: World, facts: MachineFacts) -> None:
        self._world, self._facts = world, facts
        self._image = world.settings.cache_root / "images" / "mini" / "current"
        self._runtime = world.settings.runtime()
        self._uid = str(uuid.uuid4())
        self._folder = Path(tempfile.mkdtemp(prefix="vdc-bench-"))
        self._first, self._second = world.plan.hosts[:2]
        self._copies: list[Copy] = []
        self._processes: list[tuple[subprocess.Popen[bytes], list[int]]] = []
        self._taps: list[HostPlan] = []
        self._epoch = 1
        self._plan: LockstepPlan | None = None

    async def start(self) -> None:
        """Power the guest on and wait until it answers."""
        await self._start(self._first, is_primary=True)
        await self._world.answers(ADDRESS)

    async def protect(self, *, is_encrypted: bool = True) -> primary.EntryReport:
        """Add a secondary and enter lockstep; returns after the proof that the product asks for."""
        self._epoch += 1
        second = await self._start(self._second, is_primary=False)
        first, self._plan = self._copies[0], self._plan_of(self._epoch, is_encrypted=is_encrypted)
        await asyncio.to_thread(self._give_credentials, first, second)
        await primary.open_channels(first.qmp, self._plan, network=_network(first.host))
        incoming = await secondary.prepare(second.qmp, self._plan, network=_network(second.host))
        try:
            report = await primary.enter(
                first.qmp, self._plan, progress=lambda _: None, deadline_s=DEADLINE_S,
                network=_network(first.host),
            )  # fmt: skip
        finally:
            incoming.close()
        first.meter.restart(time.monotonic())

        async def is_proven() -> bool:
            return first.meter.count >= CHECKPOINTS

        await until(is_proven, "checkpoints of the bare pair")
        return report

    @property
    def pauses(self) -> dict[str, float]:
        """The checkpoints so far."""
        meter = self._copies[0].meter
        return {"p50_ms": meter.p50_ms, "p99_ms": meter.p99_ms, "count": float(meter.count)}

    async def unprotect(self) -> None:
        """Leave lockstep and end the secondary."""
        assert self._plan is not None
        await primary.leave(self._copies[0].qmp, self._plan)
        await self._copies.pop().qmp.close()
        await asyncio.to_thread(self._kill, self._processes.pop())

    async def close(self) -> None:
        """End both and remove taps and files."""
        for copy in self._copies:
            with contextlib.suppress(QmpError):
                await copy.qmp.close()
        await asyncio.to_thread(self._remove)

    def _remove(self) -> None:
        for entry in self._processes:
            self._kill(entry)
        for host in self._taps:
            subprocess.run(
                ["ip", "-n", host.namespace, "link", "delete", TAP],
                capture_output=True, timeout=20, check=False,
            )  # fmt: skip
        shutil.rmtree(self._folder, ignore_errors=True)

    @staticmethod
    def _kill(entry: tuple[subprocess.Popen[bytes], list[int]]) -> None:
        """The program first: its sandbox then ends by itself, and is reaped."""
        monitor, pids = entry
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            monitor.kill()
        monitor.wait(20)

    # ---- one copy

    async def _start(self, host: HostPlan, *, is_primary: bool) -> Copy:
        folder = self._folder / f"{host.name}-{len(self._processes)}-{uuid.uuid4().hex[:4]}"
        own_by(folder, GUEST_UID)
        disks = DiskSet(QemuImg(self._runtime, folder, self._image), folder)
        record = await self._make_disks(disks, is_primary=is_primary)
        await asyncio.to_thread(self._make_tap, host, is_live=is_primary)
        machine = self._machine(record)
        taps = await asyncio.to_thread(in_namespace, host.namespace, lambda: open_taps([TAP]))
        try:
            descriptors = [tap.fileno() for tap in taps]
            command = (argv.primary_argv if is_primary else argv.secondary_argv)(machine, descriptors)
            copy = await self._spawn(host, folder, disks, command, descriptors)
        finally:
            close_taps(taps)
        copy.qmp.add_listener(copy.meter.on_event)
        self._copies.append(copy)
        return copy

    async def _make_disks(self, disks: DiskSet, *, is_primary: bool) -> CopyRecord:
        if is_primary:
            return await disks.create_primary(self._uid, 1, [DiskSource(None, "disk.qcow2")])
        sizes = await self._copies[0].disks.virtual_sizes()
        return await disks.create_secondary(self._uid, self._epoch, sizes)

    def _make_tap(self, host: HostPlan, *, is_live: bool) -> None:
        if host not in self._taps:
            _ip(host, "tuntap", "add", TAP, "mode", "tap", "vnet_hdr", "user", "0")
            self._taps.append(host)
            _ip(host, "link", "set", TAP, "mtu", str(self._world.plan.network.mtu), "arp", "off", "up")
        if is_live:
            _ip(host, "link", "set", TAP, "master", bridge_name(self._world.plan.network.name))

    def _machine(self, record: CopyRecord) -> MachineSpec:
        recipe = json.loads((self._image / "image.json").read_text())
        prefix = self._world.plan.network.cidr.prefixlen
        cmdline = f"{recipe['cmdline']} vdc.ip={ADDRESS}/{prefix} vdc.hostname=bare"
        return MachineSpec(
            name="bare",
            uid=self._uid,
            cpus=1,
            memory_bytes=MEMORY_BYTES,
            boot=KernelBoot(f"{IMAGE_DIR}/{recipe['kernel']}", f"{IMAGE_DIR}/{recipe['initrd']}", cmdline),
            disks=disk_specs(record, 1),
            nics=(NicSpec(TAP, MAC),),
            accelerator="kvm" if self._facts.accelerator == "kvm" else "tcg",
            cpu_model=self._facts.cpu_model,
        )

    async def _spawn(
        self, host: HostPlan, folder: Path, disks: DiskSet, command: list[str], taps: list[int]
    ) -> Copy:
        status, group = StatusPipe(), cgroups.folder(host)
        devices = ("/dev/kvm",) if self._facts.accelerator == "kvm" else ()
        full = sandboxed(
            command, guest_user(folder, devices), runtime_root=self._runtime, vm_dir=folder, image_dir=self._image,
            status_fd=status.writer.fileno(), has_network=False, devices=devices,
        )  # fmt: skip
        with (folder / "qemu.log").open("wb") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", host.namespace, *full],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=(status.writer.fileno(), *taps),
            )  # fmt: skip
        if group is not None and group.is_dir():
            with contextlib.suppress(OSError):
                (group / "cgroup.procs").write_text(str(process.pid))
        pids: list[int] = []
        self._processes.append((process, pids))
        status.writer.close()
        try:
            pid = await asyncio.wait_for(status.child_pid(), DEADLINE_S)
            if pid is None:
                raise BenchError(f"the bare QEMU did not start: {(folder / 'qemu.log').read_text()[-300:]}")
            pids.append(pid)
            qmp = await QmpSession.connect(folder / "qmp.sock", name=folder.name, is_starting=True)
        finally:
            status.reader.close()
        return Copy(host, folder, disks, process, pid, qmp)

    def _give_credentials(self, first: Copy, second: Copy) -> None:
        authorities = self._folder / "authorities"
        own, other = (PairFiles(copy.folder, authorities, self._uid) for copy in (first, second))
        own.make(self._epoch)
        asked = KeyAndRequest.make()
        other.keep(self._epoch, qemu_files(*own.sign(self._epoch, asked.request), asked.key))

    def _plan_of(self, epoch: int, *, is_encrypted: bool) -> LockstepPlan:
        return LockstepPlan(
            epoch=epoch,
            disks=1,
            nics=1,
            primary_address=str(self._first.address(Underlay.REPLICATION)),
            secondary_address=str(self._second.address(Underlay.REPLICATION)),
            ports=LockstepPorts.for_slot(LAST_SLOT, epoch),
            is_encrypted=is_encrypted,
        )


@asynccontextmanager
async def bare_pair(world: World, facts: MachineFacts) -> AsyncIterator[BarePair]:
    """The pair for the time of the block."""
    pair = BarePair(world, facts)
    try:
        await pair.start()
        yield pair
    finally:
        await asyncio.shield(pair.close())


def _network(host: HostPlan) -> Network:
    return Network(lambda: in_namespace(host.namespace, tcp_socket))


def _ip(host: HostPlan, *arguments: Any) -> None:
    command = ["ip", "-n", host.namespace, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip()}")
