"""What all supervisors of a host share: its drivers, its view of the cluster, its clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hostagent.drivers.images import ImageCache
from hostagent.drivers.libvirt.client import LibvirtInventory
from hostagent.drivers.libvirt.describe import choose_cpu
from hostagent.drivers.net import OverlayNetwork
from hostagent.drivers.process.cgroup import Groups
from hostagent.drivers.process.users import GuestFolders
from hostagent.supervisor.node import NodeContext
from vdc.api import models as wire
from vdc.model.endophyte import Endophyte
from vdc.model.errors import UnavailableError
from vdc.model.image import Image, ImageEntry
from vdc.model.network import Network
from vdc.protection.snapshot import Limits


class Peer(Protocol):
    """Another host's agent, as far as supervisors ask it by themselves."""

    async def peer_credentials(self, name: str, request: wire.CredentialsRequest) -> wire.Credentials:
        """See the API."""
        ...

    async def peer_output(self, name: str, request: wire.OutputRequest) -> wire.LogText:
        """See the API."""
        ...


def _nobody(host_name: str) -> Peer:
    raise UnavailableError(f"host {host_name} does not answer", code="host-unreachable")


@dataclass(kw_only=True)
class HostContext(NodeContext):
    """One per agent that runs guests."""

    overlay: OverlayNetwork
    images: ImageCache
    libvirt: LibvirtInventory
    guests: GuestFolders
    groups: Groups
    peer: Callable[[str], Peer] = _nobody  # another host's agent, by name; set where the API is made

    def limits(self, checkpoint_budget_ms: int) -> Limits:
        """The durations that decisions depend on."""
        timings = self.config.timings
        return Limits(
            suspect_ms=timings.suspect_ms,
            secondary_delay_ms=timings.secondary_delay_ms,
            isolated_pause_ms=timings.isolated_pause_ms,
            checkpoint_budget_ms=checkpoint_budget_ms,
        )

    @property
    def networks(self) -> dict[str, Network]:
        """The overlays, by name."""
        return {name: found.value for name, found in self.mirror.networks.items()}

    async def ensure_images(self, endophyte: Endophyte) -> dict[str, Image]:
        """Make all images of an Endophyte present on this host; by their digests. Raises as ImageCache.ensure."""
        found = {digest: self.mirror.images[digest].value for digest in sorted(endophyte.image_digests)}
        for entry in found.values():
            await self.ensure_image(entry)
        return {digest: entry.image for digest, entry in found.items()}

    async def ensure_image(self, entry: ImageEntry) -> None:
        """Make an image present on this host; raises as ImageCache.ensure."""
        holders = [
            found.value.peer_url
            for name in entry.hosts
            if name != self.name and name in self.mirror.alive and (found := self.mirror.hosts.get(name))
        ]
        await self.images.ensure(entry, holders)

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
