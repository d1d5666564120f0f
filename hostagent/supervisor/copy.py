"""This host's copy of one Endophyte: its folder, its QEMU process, its QMP session, its remembered state.

Knows how to come to be, to be taken over after a restart of the agent, and to end; knows nothing of why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hostagent.drivers.disk.copy import CopyRecord, DiskSet, older_copy, remove_but_older
from hostagent.drivers.disk.images import QemuImg
from hostagent.drivers.firmware import find_firmware, prepare_vars
from hostagent.drivers.host.room import require_memory
from hostagent.drivers.net import consent, tap_name
from hostagent.drivers.process import ProcessHandle, ProcessStartError, adopt
from hostagent.drivers.process.oom import PRIMARY, SECONDARY, set_oom_score
from hostagent.drivers.process.users import GUEST_DIR
from hostagent.drivers.qemu.checkpoints import CheckpointMeter
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.credentials import PairFiles
from hostagent.drivers.qemu.incoming import Incoming
from hostagent.drivers.qemu.primary import ENDS_LOCKSTEP
from hostagent.drivers.qemu.qmp import QmpError, QmpSession, QmpUnreachableError
from hostagent.drivers.qemu.spec import DEBUG_SOCKET, GUEST_SOCKET, QMP_SOCKET, SERIAL_LOG, MachineSpec
from hostagent.drivers.tpm import adopt_tpm, start_tpm
from hostagent.supervisor.confinement import PIDFILE, QEMU_LOG
from hostagent.supervisor.copying import Copying
from hostagent.supervisor.guestagent import AgentWatch
from hostagent.supervisor.guestline import GuestLine
from hostagent.supervisor.host import HostContext
from hostagent.supervisor.journal import Journal
from hostagent.supervisor.launch import give_files, join_group, launch, take_config
from hostagent.supervisor.logs import ConsoleWatch, bound_logs, last_line
from hostagent.supervisor.ports import ports_of
from hostagent.supervisor.state import CopyState, load_state, save_state
from hostagent.supervisor.trouble import DiskTrouble
from vdc.model.endophyte import CopyRole, CopyStage, Endophyte
from vdc.model.errors import VdcError
from vdc.model.guest import ProgramStatus
from vdc.model.manifest import Firmware
from vdc.model.step import Step
from vdc.protection.placement import primary_cost_bytes, secondary_cost_bytes

_TAP_OWNER = 0  # QEMU gets its taps as descriptors; nobody but root opens one by its name
QMP_CONNECT_S = 15.0  # from the start of QEMU until it serves
QMP_GREETING_S = 2.0
PROBE_DEADLINE_S = 0.3
QMP_POLL_S = 0.01  # QEMU tells nobody when it listens
_OWN_DOING = ("host-qmp-quit", "host-qmp-system-reset", "host-signal")


class Copy:
    """One per Endophyte and host. `wake` is called whenever something happened that a decision may depend on."""

    def __init__(self, host: HostContext, name: str, wake: Callable[[], None]) -> None:
        self.host = host
        self.name = name
        self.folder: Path = host.vms_dir / name  # what the agent keeps of it, and root's alone
        self.guest: Path = self.folder / GUEST_DIR  # what QEMU sees and may change, and its user's
        self.state = load_state(self.folder) or CopyState(name=name, uid="")
        self._fenced_uid = self.state.uid  # whose `highest_epoch` is; outlives `discard`
        self.journal = Journal(self.folder)
        self._durable_epoch = self.state.highest_epoch  # as this host's disk has it
        self.meter = CheckpointMeter()
        self.process: ProcessHandle | None = None
        self.qmp: QmpSession | None = None
        self.is_unread = False  # taken over from an earlier agent, and QEMU has not said yet how far it is
        self.colo_ended = False
        self.lockstep_since_s: float | None = None
        self.qemu_word = ""
        self.copying = Copying(wake)
        self.older: CopyRecord | None = older_copy(self.folder)  # disks of a former secondary, kept
        self.guest_reset = self.guest_crashed = False
        self.booting_since_s: float | None = None  # powered on or reset, and not seen at rest since
        self.powered_off = asyncio.Event()
        self.consent_epoch = 0  # of the lockstep for which this process has set the kernel's gate
        self.fenced_epoch = 0  # under which this primary stopped speaking for a planned promotion
        self.fence_timer: asyncio.Task[None] | None = None
        self.trouble = DiskTrouble()
        self.is_held = False  # a comparison holds the checkpoints up: that is no stall
        self.wake = wake
        self._incoming: Incoming | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._tpm: ProcessHandle | None = None
        self.telling: asyncio.Task[None] | None = None  # what the agent said when it found this copy
        self.console = ConsoleWatch(self.guest / SERIAL_LOG)
        self.line = GuestLine(self.guest / GUEST_SOCKET, name)
        self.program: ProgramStatus | None = None  # of a container, as its guest has said last
        self.agent = AgentWatch(self)
        self._saving = asyncio.Lock()

    # ---- what is there

    @property
    def is_alive(self) -> bool:
        """Whether its QEMU process exists."""
        return self.process is not None and self.process.is_alive()

    @property
    def has_files(self) -> bool:
        """Whether anything of it lies on this host."""
        return self.folder.exists()

    @property
    def pid(self) -> int | None:
        """Of QEMU, while it lives."""
        return self.process.pid if self.process and self.is_alive else None

    @property
    def disks(self) -> DiskSet:
        """Its disk files."""
        return DiskSet(QemuImg(self.host.config.runtime, self.guest, self.host.image_dir), self.folder)

    @property
    def credentials(self) -> PairFiles:
        """Its TLS files, of the VM whose copy it is now."""
        return PairFiles(self.guest, self.host.pair_authorities, self.state.uid)

    def quiet_ms(self) -> float:
        """How long no checkpoint has completed."""
        return self.meter.quiet_for(time.monotonic()) * 1000

    def session(self) -> QmpSession:
        """The QMP session; raises QmpError's kin where there is none."""
        if self.qmp is None:
            raise QmpError(f"{self.name}: no connection to QEMU", code="qmp-closed")
        return self.qmp

    async def save(self, **changes: object) -> None:
        """Remember changed state; durably on disk when it returns."""
        self.state = self.state.with_(**changes)
        if self.state.uid and self.state.uid != self._fenced_uid:  # epochs of an earlier VM of this name
            self._fenced_uid = self.state.uid
            self.state = self.state.with_(highest_epoch=0)
            self._durable_epoch = 0
        self.state = self.state.with_(highest_epoch=max(self.state.highest_epoch, self.state.epoch))
        await self._write_state()
        self.wake()

    async def _write_state(self) -> None:
        """One write at a time, each of the state as it is then: an older one never lands after a newer."""
        async with self._saving:
            state = self.state
            await save_state(self.folder, state)
            self._durable_epoch = state.highest_epoch

    async def remember_epoch(self, epoch: int) -> None:
        """Have an epoch that is about to be acted on on this host's disk; raises where that cannot be (I2)."""
        if epoch <= self._durable_epoch:
            return
        self.state = self.state.with_(highest_epoch=max(self.state.highest_epoch, epoch))
        await self._write_state()

    async def reach(self, step: Step) -> None:
        """A named step between two effects: a line in the journal, and a failpoint in tests."""
        self.journal.note(step, epoch=self.state.epoch, at=self.host.clock.wall())
        await self.host.failpoints.reach(step)

    def bound_logs(self) -> None:
        """See logs.bound_logs."""
        bound_logs(self.folder, self.guest)

    # ---- coming to be

    async def start(
        self, endophyte: Endophyte, spec: MachineSpec, role: CopyRole, given: Mapping[str, bytes]
    ) -> None:
        """Make ports, firmware and TPM, start QEMU, connect to it. Raises VdcError; then `end` cleans up."""
        is_primary = role is CopyRole.PRIMARY
        cost_bytes = primary_cost_bytes(endophyte) if is_primary else secondary_cost_bytes(endophyte)
        whose = "" if is_primary else "the secondary of "
        require_memory(cost_bytes, f"{whose}{self.name} on {self.host.name}")
        await consent.end_if_any(endophyte.uid)  # of a QEMU before this one
        for port in ports_of(endophyte):
            await self.host.overlay.attach_port(port, live=is_primary, owner=_TAP_OWNER)
        await self.reach(Step.POWER_ON_PORTS)
        if spec.firmware is not Firmware.BIOS:
            files = find_firmware(spec.firmware, self.host.config.runtime)
            await asyncio.to_thread(prepare_vars, files.vars_template, self.guest)
        join = await join_group(self.host, endophyte, role)
        if spec.tpm:
            runtime = self.host.config.runtime
            self._tpm = await start_tpm(
                self.folder, self.guest, runtime_root=runtime, tag=spec.uid, join=join
            )
        self.console.skip()
        await give_files(self.guest, given)
        self.process = await launch(self.host, self.folder, self.guest, spec, role, join=join)
        self.rank_for_memory(role)
        self.booting_since_s = self.host.clock.boottime_s() if role is CopyRole.PRIMARY else None
        self._watch()
        await self.reach(Step.POWER_ON_SPAWNED)
        await self._connect_to_new()
        await take_config(self.guest)
        await self.reach(Step.POWER_ON_DONE)

    def rank_for_memory(self, role: CopyRole | None) -> None:
        """A secondary goes first when this host's memory runs out; a primary is worth no less than others."""
        if self.process is not None:
            set_oom_score(self.process.pid, PRIMARY if role is CopyRole.PRIMARY else SECONDARY)

    async def take_over(self) -> None:
        """After a restart of the agent: find the running process again, or learn that it has ended."""
        self.process = await adopt(self.folder / PIDFILE)
        self._tpm = await adopt_tpm(self.folder)
        if self.process is None:
            return
        if self.state.stage is not CopyStage.PREPARING:
            await take_config(self.guest)
        self.rank_for_memory(self.state.role)
        self._watch()
        with suppress(QmpError):
            await self._connect()

    @property
    def needs_session(self) -> bool:
        """Whether QEMU lives and there is no session with it."""
        return self.is_alive and (self.qmp is None or self.qmp.closed.is_set())

    async def reconnect(self) -> None:
        """Connect again where the session was lost and the process lives. Raises QmpError."""
        if not self.needs_session:
            return
        try:
            await self._connect()
        except QmpUnreachableError:  # a monitor that broke is not served again; there is another one
            await self._connect(DEBUG_SOCKET)

    async def _connect_to_new(self) -> None:
        """Connect as soon as a QEMU that was just started listens; at once an error where it ended instead."""
        async with asyncio.timeout(QMP_CONNECT_S):
            while True:
                try:
                    return await self._connect()
                except QmpUnreachableError as error:
                    if not self.is_alive:
                        why = last_line(self.folder / QEMU_LOG) or str(error)
                        raise ProcessStartError("QEMU", why) from error
                await asyncio.sleep(QMP_POLL_S)

    async def _connect(self, socket: str = QMP_SOCKET) -> None:
        qmp = await QmpSession.connect(self.guest / socket, name=self.name, deadline_s=QMP_GREETING_S)
        qmp.add_listener(self._on_event)
        qmp.on_closed = self.wake
        self.qmp = qmp
        self.meter.hear_again(time.monotonic())
        status = await qmp.execute(Command.QUERY_STATUS)
        self.qemu_word = status["status"]

    def _watch(self) -> None:
        self._watcher = asyncio.create_task(self._watch_process(), name=f"{self.name} process")

    async def _watch_process(self) -> None:
        assert self.process is not None
        await self.process.wait()
        self.qemu_word = ""
        if self.state.uid and self.state.stage is not CopyStage.PREPARING:  # its job tells, and says why
            self.host.heartbeats.tell_dead(self.state.uid, self.state.epoch)
        self.wake()

    def _on_event(self, event: str, data: dict[str, Any], at_s: float) -> None:
        self.meter.on_event(event, data, at_s)
        match event:
            case "STOP":
                self.qemu_word = "paused"
                return
            case "RESUME":
                self.qemu_word = "running"
                if self.state.plan is not None:
                    self.host.overlay.nudge(
                        *(tap_name(self.state.uid, index) for index in range(len(self.state.macs)))
                    )
                if self.meter.count > 8:  # proven long ago: no decision waits for it
                    return
            case "COLO_EXIT":
                if self.state.role is CopyRole.SECONDARY:  # a primary's log is also that of its time before
                    self.trouble.read_log(self.folder / QEMU_LOG)
                self.colo_ended = True
            case _ if event in ENDS_LOCKSTEP and data.get("reason") not in _OWN_DOING:
                self.guest_reset = True
                self.booting_since_s = self.host.clock.boottime_s()
                if event == "SHUTDOWN" and data.get("guest"):
                    self.powered_off.set()
            case _:
                epoch = self.state.plan.epoch if self.state.plan else 0
                self.trouble.on_event(event, data, self.state.role, self.state.stage, epoch)
        self.wake()

    async def probe(self) -> None:
        """Raise a QmpError unless QEMU itself answers, out of band: a hung copy must not ask to go on."""
        await self.session().execute_oob(Command.QUERY_YANK, deadline_s=PROBE_DEADLINE_S)

    def await_memory(self, incoming: Incoming | None) -> None:
        """Keep what waits for the primary's memory, or wait no more."""
        if self._incoming is not None:
            self._incoming.close()
        self._incoming = incoming

    # ---- coming to an end

    def forget_fence(self) -> None:
        """Nobody lifts the fence of a planned promotion any more."""
        if self.fence_timer is not None:
            self.fence_timer.cancel()
            self.fence_timer = None

    async def end_process(self, *, is_news: bool = True) -> None:
        """Kill QEMU and its helpers and wait until they are gone; files and remembered state stay.

        Unless it `is_news`, the peers are not told that this copy has died.
        """
        self.forget_fence()
        self.await_memory(None)
        await self.line.close()
        await take_config(self.guest)
        self.program = None
        self.fenced_epoch = self.consent_epoch = 0
        if self._watcher is not None and not is_news:
            self._watcher.cancel()
            self._watcher = None
        if self.qmp is not None:
            qmp, self.qmp = self.qmp, None
            with suppress(QmpError, TimeoutError):
                await qmp.close()
        if self.process is None:
            self.process = await adopt(self.folder / PIDFILE)  # what the files name must not outlive them
        if self.process is not None:
            self.process.kill()
            await self.process.wait_gone()
            self.process = None
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        if self._tpm is not None:
            await self._tpm.terminate(0)
            self._tpm = None
        await asyncio.to_thread(self.credentials.forget)
        self.colo_ended = False
        self.guest_reset = self.guest_crashed = False
        self.trouble.forget()
        self.powered_off.clear()
        self.lockstep_since_s = None
        self.qemu_word = ""
        self.is_held = False
        self.meter.restart(time.monotonic())

    async def remove_ports(self) -> None:
        """Remove its taps."""
        await consent.end_if_any(self.state.uid)
        for ifname in self._taps():
            await self.host.overlay.remove_port(ifname)

    def _taps(self) -> list[str]:
        return [tap_name(self.state.uid, index) for index in range(len(self.state.macs))]

    async def discard(self, *, keep: CopyRecord | None = None) -> None:
        """End it and remove everything of it from this host, but for the disks of an older copy. Idempotent."""
        with suppress(VdcError):  # at once: what nothing gates (ARP) must not outlast the loss of the epoch
            await self.host.overlay.go_silent(*self._taps())
        await self.end_process()
        await self.reach(Step.DISCARD_ENDED)
        await self.remove_ports()
        await self.reach(Step.DISCARD_PORTS)
        await asyncio.to_thread(remove_but_older, self.folder, self.guest, keep)
        await asyncio.to_thread(self.host.groups.remove, self.name)
        self.older = keep
        highest = self.state.highest_epoch
        self.state = CopyState(name=self.name, uid="", highest_epoch=highest)
        self._durable_epoch = 0
        self.console.skip()
        await self.reach(Step.DISCARD_DONE)
        self.wake()

    async def close(self) -> None:
        """Let go of the process without touching it (the agent stops; the guest goes on).

        The session is closed, or the next supervisor could not connect: QEMU serves one at a time.
        """
        if self.qmp is not None:
            with suppress(QmpError, TimeoutError):
                await self.qmp.close()
        await self.line.close()
        self.forget_fence()
        self.await_memory(None)
        for task in (self._watcher, self.telling, self.agent.task):
            if task is not None:
                task.cancel()
        for process in (self.process, self._tpm):
            if process is not None:
                process.close()

    def mark_stage(self, stage: CopyStage) -> None:
        """Change the stage in memory alone (a note that is found out again after a restart)."""
        self.state = self.state.with_(stage=stage)
