"""What all supervisors of a host share: its drivers, its view of the cluster, its clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from hostagent.config import AgentConfig
from hostagent.drivers.images import ImageCache
from hostagent.drivers.libvirt.client import LibvirtInventory
from hostagent.drivers.libvirt.describe import choose_cpu
from hostagent.drivers.net import OverlayNetwork
from hostagent.heartbeat.heartbeats import Heartbeats
from hostagent.supervisor.failpoints import Failpoints
from vdc.control.clock import Clock
from vdc.control.events import EventLog
from vdc.model.errors import UnavailableError
from vdc.model.event import Severity
from vdc.model.host import Host
from vdc.model.image import ImageEntry
from vdc.protection.snapshot import Limits
from vdc.store.mirror import Mirror
from vdc.store.protocol import StateStore


@dataclass
class HostContext:
    """One per agent. `record` is this host as it is published to the others."""

    config: AgentConfig
    record: Host
    store: StateStore
    mirror: Mirror
    events: EventLog
    clock: Clock
    heartbeats: Heartbeats
    overlay: OverlayNetwork
    images: ImageCache
    libvirt: LibvirtInventory
    failpoints: Failpoints = field(default_factory=Failpoints)
    store_heard_at_s: float = 0.0
    announced: asyncio.Event = field(default_factory=asyncio.Event)  # the store knows this agent
    log: structlog.stdlib.BoundLogger = field(default_factory=structlog.get_logger)

    @property
    def name(self) -> str:
        """This host's name."""
        return self.config.host

    @property
    def vms_dir(self) -> Path:
        """Where the VMs' folders are."""
        return self.config.state_dir / "vms"

    @property
    def image_dir(self) -> Path:
        """The image store's folder, bound read-only into every sandbox."""
        return self.config.state_dir / "images"

    def limits(self, checkpoint_budget_ms: int) -> Limits:
        """The durations that decisions depend on."""
        timings = self.config.timings
        return Limits(
            suspect_ms=timings.suspect_ms,
            secondary_delay_ms=timings.secondary_delay_ms,
            isolated_pause_ms=timings.isolated_pause_ms,
            checkpoint_budget_ms=checkpoint_budget_ms,
        )

    def store_silent_ms(self) -> float:
        """How long the store has not answered this agent."""
        return (self.clock.boottime_s() - self.store_heard_at_s) * 1000

    async def ensure_image(self, entry: ImageEntry) -> None:
        """Make an image present on this host; raises as ImageCache.ensure."""
        holders = [
            found.value.api_url
            for name in entry.hosts
            if name != self.name and name in self.mirror.alive and (found := self.mirror.hosts.get(name))
        ]
        await self.images.ensure(entry.image, holders)

    async def guest_cpu(self) -> str:
        """QEMU's `-cpu` for a guest that is powered on now: every host that may ever run its pair can offer it.

        Asked once per power-on; both copies of the guest keep the answer (`MachineFacts`).
        """
        alike = [
            found.value
            for found in self.mirror.hosts.values()
            if found.value.accelerator.name == self.record.accelerator.name
        ]
        choice = await choose_cpu(alike or [self.record], self.libvirt)
        for warning in choice.warnings:
            self.log.warning(warning)
        return choice.qemu_cpu

    async def tell(
        self,
        name: str,
        code: str,
        sentence: str,
        *,
        epoch: int = 0,
        severity: Severity = Severity.NORMAL,
        **figures: float,
    ) -> None:
        """Log a sentence and store it as an event; a store that does not answer is only logged."""
        level = self.log.warning if severity is Severity.WARNING else self.log.info
        level(sentence, endophyte=name, code=code, epoch=epoch, **figures)
        event = self.events.make(name, code, sentence, epoch=epoch, severity=severity, figures=figures)
        try:
            await self.events.append(event)
        except UnavailableError as error:
            self.log.warning("an event could not be stored", code=code, why=str(error))
