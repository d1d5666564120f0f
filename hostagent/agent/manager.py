"""Keeps one supervisor for each Endophyte that this host has a part in, and the overlay in step with the pairs."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hostagent.drivers.net import consent
from hostagent.drivers.net.nft import NftError
from hostagent.drivers.process.sweep import sweep_processes
from hostagent.drivers.qemu import credentials
from hostagent.supervisor.host import HostContext
from hostagent.supervisor.supervisor import Supervisor
from vdc.model.errors import ConflictError, NotFoundError, UnavailableError, VdcError
from vdc.store import keys

SWEEP_EVERY_S = 5.0
FOLLOW_DEADLINE_S = 3.0


class Manager:
    """One per agent."""

    def __init__(self, host: HostContext) -> None:
        self.host = host
        self.supervisors: dict[str, Supervisor] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._placements_dirty = asyncio.Event()
        self._placed: dict[str, str | None] = {}
        self._following: dict[str, int] = {}  # the epochs that `_placed` is made of
        self._follow_news = asyncio.Event()
        self._consent_trouble = ""

    def find(self, name: str) -> Supervisor:
        """The supervisor of an Endophyte; NotFoundError where this host has no part in it."""
        supervisor = self.supervisors.get(name)
        if supervisor is None:
            raise NotFoundError(f"{self.host.name} has no copy of {name}", code="no-copy")
        return supervisor

    def image_bases(self) -> set[str]:
        """Digests of the blobs that disks of guests on this host stand on."""
        machines = (supervisor.copy.state.machine for supervisor in self.supervisors.values())
        bases = (base for machine in machines if machine is not None for base in machine.disk_bases)
        return {f"sha256:{base.rpartition('/')[2]}" for base in bases if base}

    async def follow(self, name: str, epoch: int) -> None:
        """Return when this host's forwarding entries are those of `epoch`; raises UnavailableError."""
        try:
            async with asyncio.timeout(FOLLOW_DEADLINE_S):
                while self._following.get(name, 0) < epoch:
                    await self._follow_news.wait()
        except TimeoutError as error:
            raise UnavailableError(f"epoch {epoch} of {name} did not come", code="epoch-late") from error

    async def run(self) -> None:
        """Begin with what lies on this host's disk, then follow the mirror; never returns."""
        self.host.vms_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        for process in await sweep_processes(self.host.config.state_dir):
            self.host.log.info("ended a process that an earlier agent left", process=process)
        self._sweep_files()
        for folder in sorted(self.host.vms_dir.iterdir()):
            if folder.is_dir():
                self._ensure(folder.name)
        await self._sweep_ports()
        for group in await asyncio.to_thread(self.host.groups.sweep, self.supervisors.keys()):
            self.host.log.info("removed a control group that nothing owns", group=group)
        unsubscribe = self.host.mirror.subscribe(self._on_change)
        placer = asyncio.create_task(self._keep_placements(), name="placements")
        try:
            self._on_change("")
            while True:
                await self._forget_lost()
                await self._keep_consent()
                await asyncio.sleep(SWEEP_EVERY_S)
                await self._drop_idle()
        finally:
            unsubscribe()
            placer.cancel()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(placer, *self._tasks.values(), return_exceptions=True)

    def _sweep_files(self) -> None:
        """Remove what a write that was cut short left, and folders in which a copy never began."""
        for folder in self.host.vms_dir.iterdir():
            with suppress(OSError):
                for torn in (*folder.glob(".*.tmp"), *folder.glob("*.new")):
                    torn.unlink(missing_ok=True)
                folder.rmdir()  # fails unless it is empty

    async def _sweep_ports(self) -> None:
        """Remove keys and taps that a crash left behind; where a folder could not be read, none is known to be left."""
        if len(self.supervisors) < sum(1 for folder in self.host.vms_dir.iterdir() if folder.is_dir()):
            return
        known = {supervisor.copy.state.uid for supervisor in self.supervisors.values()}
        await asyncio.to_thread(credentials.sweep, self.host.pair_authorities, known)
        try:
            for ifname in await self.host.overlay.sweep(known):
                self.host.log.info("removed a tap that nothing owns", ifname=ifname)
            for table in await consent.sweep(known):
                self.host.log.info("removed rules that nothing owns", table=table)
        except VdcError as error:
            self.host.log.warning("left-over taps could not be looked for", why=str(error))

    async def _keep_consent(self) -> None:
        """The kernel's second gate, where each copy has to have it and nowhere else."""
        if not self.supervisors:
            return
        tables, trouble = await consent.present(), ""
        for name, supervisor in list(self.supervisors.items()):
            try:
                if done := await supervisor.keep_consent(tables):
                    self.host.log.warning(done, endophyte=name)
            except NftError as error:
                trouble = str(error)
        if trouble and trouble != self._consent_trouble:
            self.host.log.warning("the kernel's second gate cannot be set", why=trouble)
        self._consent_trouble = trouble

    def wake_peers_of(self, host_name: str) -> None:
        """A peer fell silent, was heard again, or told of a death."""
        for name, supervisor in self.supervisors.items():
            pair = self.host.mirror.pair(name)
            if pair is not None and (host_name in pair.hosts or pair.secondary is None):
                supervisor.wake()

    # ---- inside

    def _on_change(self, key: str) -> None:
        if not key or key.startswith(keys.PAIRS) or key.startswith(keys.ENDOPHYTES):
            self._placements_dirty.set()
        if not key:
            for name in self.host.mirror.pairs:
                self._touch(name)
            for supervisor in self.supervisors.values():
                supervisor.wake()
        elif key.startswith((keys.PAIRS, keys.ENDOPHYTES)):
            self._touch(keys.last_part(key))
        elif key.startswith(keys.DELETED):
            for supervisor in self.supervisors.values():
                supervisor.wake()
        elif key.startswith(keys.OBSERVED):
            name, _, about = key.removeprefix(keys.OBSERVED).partition("/")
            if about != self.host.name and name in self.supervisors:
                self.supervisors[name].wake()

    def _touch(self, name: str) -> None:
        pair = self.host.mirror.pair(name)
        if pair is not None and self.host.name in pair.hosts:
            self._ensure(name)
        if name in self.supervisors:
            self.supervisors[name].wake()

    def _ensure(self, name: str) -> None:
        if name not in self.supervisors:
            try:
                supervisor = Supervisor(self.host, name)
            except ConflictError as error:
                self.host.log.error("left alone", endophyte=name, why=str(error))
                return
            self.supervisors[name] = supervisor
            self._tasks[name] = asyncio.create_task(supervisor.run(), name=f"supervisor {name}")

    async def _drop_idle(self) -> None:
        for name in list(self.supervisors):
            if not self.supervisors[name].is_idle:
                continue
            del self.supervisors[name]
            task = self._tasks.pop(name)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.host.mirror.unstored.pop(f"{name}/{self.host.name}", None)
            if self.host.mirror.endophyte(name) is None or self.host.mirror.observed(name, self.host.name):
                await self._forget_observed(name)
        for name, task in list(self._tasks.items()):
            if task.done() and not task.cancelled() and task.exception() is not None:
                self.host.log.error("a supervisor ended", endophyte=name, why=repr(task.exception()))
                del self._tasks[name], self.supervisors[name]
                self._ensure(name)

    async def _forget_lost(self) -> None:
        """Take back what an earlier agent said of a copy and died after removing it: a deletion waits for that."""
        mirror = self.host.mirror
        for name in mirror.endophytes.keys() - self.supervisors.keys():
            if mirror.observed(name, self.host.name) and not (self.host.vms_dir / name).exists():
                await self._forget_observed(name)

    async def _forget_observed(self, name: str) -> None:
        from vdc.store.protocol import Delete

        try:
            await self.host.store.commit([], [Delete(keys.observed(name, self.host.name))])
        except UnavailableError:
            self.host.log.debug("an observed record could not be removed yet", endophyte=name)

    async def _keep_placements(self) -> None:
        """Every guest's MAC points to the host that may speak for it, on every host, as soon as that changes."""
        while True:
            await self._placements_dirty.wait()
            self._placements_dirty.clear()
            wanted = self._wanted_placements()
            epochs = {name: found.value.epoch for name, found in self.host.mirror.pairs.items()}
            changed = {mac: vtep for mac, vtep in wanted.items() if self._placed.get(mac, "?") != vtep}
            try:
                if changed:
                    await self.host.overlay.place(changed)
                if self._placed.keys() - wanted.keys():
                    await self.host.overlay.sync_placements(wanted)
                self._placed, self._following = wanted, epochs
                self._follow_news.set()
                self._follow_news.clear()
            except Exception as error:  # this task's boundary: nobody would start it again
                self.host.log.warning("forwarding entries could not be set", why=repr(error))
                await asyncio.sleep(0.2)
                self._placements_dirty.set()

    def _wanted_placements(self) -> dict[str, str | None]:
        mirror, wanted = self.host.mirror, dict[str, str | None]()
        for name, found in mirror.pairs.items():
            endophyte, primary = mirror.endophyte(name), mirror.hosts.get(found.value.primary)
            if endophyte is None or primary is None or endophyte.uid != found.value.uid:
                continue
            vtep = None if found.value.primary == self.host.name else primary.value.management_address
            wanted.update({nic.mac: vtep for nic in endophyte.nics})
        return wanted
