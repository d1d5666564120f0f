"""A host as its agent describes it."""

from __future__ import annotations

from enum import StrEnum
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from vdc.model.address import check_address
from vdc.model.base import Record
from vdc.model.ids import DnsLabel
from vdc.model.maintenance import Maintenance

MAX_INCARNATION = 2**63 - 1


class Accelerator(Record):
    """What runs guest code: `kvm` only where a probe guest really ran."""

    name: str = "tcg"
    reason: str = ""  # why it is not kvm


class QemuVersion(Record):
    """The QEMU that this host runs and whether it can do lockstep."""

    version: str = ""
    lockstep: bool = False
    reason: str = ""  # why not


class HostRole(StrEnum):
    """What a host is for."""

    HOST = "host"  # runs guests
    WITNESS = "witness"  # votes, and may lead; never runs a guest


class Host(Record):
    """Inventory, addresses and capacity; liveness is a lease key beside it.

    Its peers reach it by what it says here, and one that is witness alone can write it: an address that is none
    makes it a record that cannot be read.
    """

    name: DnsLabel
    role: HostRole = HostRole.HOST
    api_url: str
    management_address: str
    replication_address: str
    overlay_address: str
    heartbeat_port: int
    agent_version: str
    incarnation: int = Field(ge=0, le=MAX_INCARNATION)  # grows with every start of the agent
    certificate: str = (
        ""  # PEM, the host's own; the peers verify it, and derive the key of the heartbeats from it
    )
    labels: dict[str, str] = Field(default_factory=dict)
    cpus: int
    memory_bytes: int  # that Endophytes may use in all
    cpu_models: tuple[str, ...] = ()  # that libvirt's baseline may choose from
    cpu_xml: str = ""  # libvirt's description of this host's CPU; empty without libvirt
    cpu_model: str = ""
    accelerator: Accelerator = Accelerator()
    qemu: QemuVersion = QemuVersion()
    inventory_source: str = "plain"  # libvirt or plain
    warnings: tuple[str, ...] = ()
    schedulable: bool = True
    started_at: str = ""

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        check_address(self.management_address)
        for address in (self.replication_address, self.overlay_address):
            if address or not self.is_witness:  # which has neither
                check_address(address)
        urlsplit(self.api_url).port  # noqa: B018 - raises ValueError where it is none
        return self

    @property
    def peer_url(self) -> str:
        """Where the other agents reach it: by its name, which its certificate has to bear out."""
        return f"https://{self.name}:{urlsplit(self.api_url).port}"

    @property
    def is_witness(self) -> bool:
        """Whether it votes and runs no guests."""
        return self.role is HostRole.WITNESS


class NodeStatus(Record):
    """A host with what the cluster knows of it now; `vdc get nodes -o json`."""

    host: Host
    alive: bool
    is_leader: bool
    etcd: str  # leader, member, external, unreachable
    endophytes: tuple[str, ...]
    memory_reserved_bytes: int
    maintenance: Maintenance | None = None  # it is drained
    is_empty: bool = False  # drained, and nothing is left that has to leave
