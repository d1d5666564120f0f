"""What every agent has, a witness too: its configuration, its view of the cluster, its peers, its clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from hostagent.config import AgentConfig
from hostagent.heartbeat.heartbeats import Heartbeats
from hostagent.supervisor.failpoints import Failpoints
from vdc.control.clock import Clock
from vdc.control.events import EventLog
from vdc.model.errors import UnavailableError
from vdc.model.event import Event, Severity
from vdc.model.host import Host
from vdc.store.mirror import Mirror
from vdc.store.protocol import StateStore

STORE_LOST_MS = 2_500.0  # an election and two renewals of a lease are over by then


@dataclass(kw_only=True)
class NodeContext:
    """One per agent. `record` is this host as it is published to the others."""

    config: AgentConfig
    record: Host
    store: StateStore
    mirror: Mirror
    events: EventLog
    clock: Clock
    heartbeats: Heartbeats
    failpoints: Failpoints = field(default_factory=Failpoints)
    store_heard_at_s: float = 0.0
    announced: asyncio.Event = field(default_factory=asyncio.Event)  # the store knows this agent
    lineage: int = 0  # the highest that this agent acts under; stamped on what it writes about pairs
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

    @property
    def pair_authorities(self) -> Path:
        """Keys that sign for the pairs whose primary is here; no sandbox sees this folder."""
        return self.config.state_dir / "pairs"

    def store_silent_ms(self) -> float:
        """How long the store has not answered this agent."""
        return (self.clock.boottime_s() - self.store_heard_at_s) * 1000

    @property
    def is_store_lost(self) -> bool:
        """Whether the store has been silent for longer than an election explains."""
        return self.store_silent_ms() > STORE_LOST_MS

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
        """Log a sentence and store it as an event; while the store is lost the event waits in this agent."""
        level = self.log.warning if severity is Severity.WARNING else self.log.info
        level(sentence, endophyte=name, code=code, epoch=epoch, **figures)
        event = self.events.make(name, code, sentence, epoch=epoch, severity=severity, figures=figures)
        await self._store_event(event)

    async def tell_of_node(self, code: str, sentence: str, severity: Severity = Severity.WARNING) -> None:
        """As `tell`, about this host itself."""
        level = self.log.warning if severity is Severity.WARNING else self.log.info
        level(sentence, code=code)
        await self._store_event(self.events.make(self.name, code, sentence, severity=severity, kind="node"))

    async def _store_event(self, event: Event) -> None:
        if self.is_store_lost:
            self.events.keep(event)
            return
        try:
            await self.events.append(event)
        except UnavailableError as error:
            self.events.keep(event)
            self.log.warning("an event could not be stored yet", code=event.code, why=str(error))
