"""DHCP and DNS for the guests: dnsmasq on this host's end of the overlay, fed from the records."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from pathlib import Path

from hostagent.drivers.net import Change, DhcpDns, DhcpDnsConfig, Reservation, dnsmasq
from hostagent.drivers.process import ProcessHandle, Supervised, spawn_in_sandbox
from hostagent.supervisor.host import HostContext
from vdc.store import keys

DEBOUNCE_S = 0.1
RETRY_S = 2.0


class NameService:
    """dnsmasq, kept running and kept current."""

    def __init__(self, host: HostContext) -> None:
        self._host = host
        self._folder: Path = host.config.state_dir / "dnsmasq"
        self._files = DhcpDns(self._folder, seen_as=dnsmasq.SEEN_AS)
        self._process = Supervised("dnsmasq", self._start, self._folder / "dnsmasq.pid")
        self._dirty = asyncio.Event()

    async def run(self) -> None:
        """Never returns; dnsmasq outlives the agent."""
        owed = await self._written()
        unsubscribe = self._host.mirror.subscribe(self._on_change)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._process.run(), name="dnsmasq")
                group.create_task(self._follow(owed), name="dnsmasq files")
        finally:
            unsubscribe()

    def _on_change(self, key: str) -> None:
        if not key or key.startswith((keys.ENDOPHYTES, keys.HOSTS)):
            self._dirty.set()

    async def _follow(self, owed: Change) -> None:
        """`owed` is what a dnsmasq that an earlier agent started has not been told yet."""
        handle = await self._process.running()
        if self._process.is_adopted:
            self._tell(handle, owed)
        while True:
            await self._dirty.wait()
            await asyncio.sleep(DEBOUNCE_S)
            self._dirty.clear()
            change = await self._written()
            self._tell(await self._process.running(), change)

    async def _written(self) -> Change:
        """Write the files; for as long as the disk takes nothing, dnsmasq goes on with what it has."""
        while True:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                return self._files.write(self._config())
            except OSError as error:
                self._host.log.warning("names and addresses cannot be written", why=str(error))
                await asyncio.sleep(RETRY_S)

    def _tell(self, handle: ProcessHandle, change: Change) -> None:
        if change is Change.RELOAD:
            self._files.reload(handle.pid)
        elif change is Change.RESTART:
            self._process.restart()

    def _config(self) -> DhcpDnsConfig:
        mirror, config = self._host.mirror, self._host.config
        hosts = [found.value for found in mirror.hosts.values() if not found.value.is_witness]
        servers = {IPv4Address(host.overlay_address) for host in hosts}
        reservations = [
            Reservation(name=name, mac=nic.mac, address=IPv4Address(nic.address))
            for name, found in sorted(mirror.endophytes.items())
            for nic in found.value.nics
        ]
        return DhcpDnsConfig.of(
            config.network,
            interface=self._host.overlay.bridge,
            dns_servers=tuple(sorted(servers | {config.overlay_address})),
            reservations=tuple(reservations),
        )

    async def _start(self) -> ProcessHandle:
        config = self._host.config
        argv = dnsmasq.sandboxed(
            self._files.argv(), config.guest_uids.dnsmasq, runtime_root=config.runtime, folder=self._folder
        )
        return await spawn_in_sandbox(
            argv, pidfile=self._folder / "dnsmasq.pid", log_path=self._folder / "dnsmasq.log", tag="dnsmasq",
            families=dnsmasq.FAMILIES,
        )  # fmt: skip
