"""What a user asks for: the Endophyte manifest, word for word as people write it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from vdc.model.address import Ipv4Address, Ipv4Network
from vdc.model.base import ManifestRecord
from vdc.model.ids import DnsLabel
from vdc.model.process import GuestPath, Process
from vdc.model.units import GIB, MIB, DurationS, SizeBytes

API_VERSION = "mycelium.network/v1"
ANNOTATION_PREFIX = "mycelium.network/"
SERVICE_TYPE = ANNOTATION_PREFIX + "service-type"
ISOLATION_LEVEL = ANNOTATION_PREFIX + "isolation-level"
NAMESPACE = ANNOTATION_PREFIX + "namespace"  # of the Kubernetes workload that it was
MAX_DISKS = 4
MAX_NICS = 4
MAX_ALLOWED_ADDRESSES = 4  # the tag of a NIC's tap has to hold them
_SSH_KEY = re.compile(r"[a-z0-9@.-]{1,64} AAAA[A-Za-z0-9+/]{16,}={0,3}( [^\0\r\n]{0,256})?")


class ComputerType(StrEnum):
    """What kind of image is run."""

    FULL_VIRTUALIZATION = "full-virtualization"
    CONTAINER = "container"


class MemorySync(StrEnum):
    """Whether a second host runs the same guest in lockstep."""

    CONTINUOUS = "continuous"
    NONE = "none"


class Firmware(StrEnum):
    """What the guest's CPU executes first."""

    BIOS = "bios"
    UEFI = "uefi"
    UEFI_SECURE = "uefi-secure"


class Display(StrEnum):
    """The guest's screen."""

    NONE = "none"
    VNC = "vnc"


class Metadata(ManifestRecord):
    """Name, labels and annotations, with Kubernetes' meanings."""

    name: DnsLabel
    labels: dict[str, str] = Field(default_factory=dict, max_length=64)
    annotations: dict[str, str] = Field(default_factory=dict, max_length=64)


class VirtualComputer(ManifestRecord):
    """How the computer is run: kind of image, number of hosts set aside, lockstep or not."""

    type: ComputerType = ComputerType.FULL_VIRTUALIZATION
    dedicated_nodes: int = Field(default=3, ge=1, le=16)
    memory_sync: MemorySync = MemorySync.CONTINUOUS


class Resources(ManifestRecord):
    """Virtual CPUs and guest memory."""

    cpus: int = Field(default=1, ge=1, le=64)
    memory: SizeBytes = Field(default=512 * MIB, ge=64 * MIB, le=1024 * GIB)


class Disk(ManifestRecord):
    """One disk: the image's own (`size` grows it), one that begins as `image`'s disk, or an empty one.

    `mount_path`: of a container's further disks, which are made with an ext4 file system and mounted there.
    """

    name: DnsLabel
    size: SizeBytes | None = Field(default=None, ge=MIB, le=64 * 1024 * GIB)
    image: str | None = Field(default=None, min_length=1, max_length=512)
    mount_path: GuestPath | None = None
    read_only: bool = False


def _check_ssh_key(text: str) -> str:
    key = text.strip()
    if not _SSH_KEY.fullmatch(key) or not key.isprintable():
        raise ValueError(
            f"{key[:40]!r} is not an SSH public key: write for example ssh-ed25519 AAAA... me@home"
        )
    return key


class CloudInit(ManifestRecord):
    """What a disk image's cloud-init is given (NoCloud). All of it together decides nothing but what is here.

    `user`: the image's own user has this name instead. `user_data` replaces what is made of `user`, and
    `network_config` what is made of the NICs; keys are the image's own user's in any case.
    """

    user: str | None = Field(default=None, pattern=r"^[a-z_][a-z0-9_-]{0,31}$")
    ssh_authorized_keys: tuple[
        Annotated[str, Field(max_length=16 * 1024), AfterValidator(_check_ssh_key)], ...
    ] = Field(default=(), max_length=64)
    user_data: str | None = Field(default=None, min_length=1, max_length=256 * 1024, repr=False)
    network_config: str | None = Field(default=None, min_length=1, max_length=64 * 1024)


class NetworkPort(ManifestRecord):
    """One NIC on one overlay; address and MAC are chosen for the user unless given.

    `allowed_addresses`: what the guest may send from beside its address (a router, an address that moves between VMs).
    """

    network: DnsLabel = "default"
    address: Ipv4Address | None = None
    allowed_addresses: tuple[Ipv4Network, ...] = Field(default=(), max_length=MAX_ALLOWED_ADDRESSES)
    mac: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$")

    @field_validator("mac")
    @classmethod
    def _unicast(cls, mac: str | None) -> str | None:
        if mac is not None and int(mac[:2], 16) & 1:
            raise ValueError(f"{mac} is a multicast address; a NIC needs a unicast one")
        return mac.lower() if mac else None


class PublishedPort(ManifestRecord):
    """A guest port that every host forwards."""

    port: int = Field(ge=1, le=65535)
    guest_port: int | None = Field(default=None, ge=1, le=65535)
    protocol: Literal["TCP", "UDP"] = "TCP"


class UncoveredTraffic(StrEnum):
    """What becomes of traffic that lockstep does not compare: IPv6, and IPv4 other than TCP, UDP and ICMP."""

    HOLD = "hold"  # dropped at the guest's port, both ways
    LET_THROUGH = "pass"  # a failover may take back what a peer has seen of it


class ProtectionTuning(ManifestRecord):
    """Bounds of lockstep; the defaults are measured ones (docs/failover.md)."""

    checkpoint_ms: int = Field(default=300, ge=50, le=10_000)
    checkpoint_budget_ms: int = Field(default=2_000, ge=500, le=60_000)
    uncovered_traffic: UncoveredTraffic = UncoveredTraffic.HOLD
    verify_every: DurationS | None = Field(default=None, ge=60)  # `vdc verify` by itself, in seconds

    @model_validator(mode="after")
    def _budget_above_interval(self) -> ProtectionTuning:
        if self.checkpoint_budget_ms <= self.checkpoint_ms:
            raise ValueError("checkpointBudgetMs must be larger than checkpointMs")
        return self


class Placement(ManifestRecord):
    """Which hosts may run it: labels that a host must carry."""

    node_selector: dict[str, str] = Field(default_factory=dict, max_length=32)


class EndophyteSpec(ManifestRecord):
    """The desired computer."""

    virtual_computer: VirtualComputer = VirtualComputer()
    image: str = Field(min_length=1, max_length=512)
    resources: Resources = Resources()
    disks: tuple[Disk, ...] = Field(default=(), max_length=MAX_DISKS)
    networks: tuple[NetworkPort, ...] = Field(default=(NetworkPort(),), max_length=MAX_NICS)
    ports: tuple[PublishedPort, ...] = Field(default=(), max_length=64)
    process: Process | None = None
    cloud_init: CloudInit | None = None
    firmware: Firmware | None = None  # None: what the image needs
    tpm: bool = False
    display: Display = Display.NONE
    placement: Placement = Placement()
    protection: ProtectionTuning = ProtectionTuning()

    @model_validator(mode="after")
    def _of_its_type(self) -> EndophyteSpec:
        is_container = self.virtual_computer.type is ComputerType.CONTAINER
        mounted = [disk.name for disk in self.disks if disk.mount_path is not None or disk.read_only]
        if is_container and any(disk.mount_path is not None or disk.read_only for disk in self.disks[:1]):
            raise ValueError("disks[0] is the root; mountPath and readOnly are for further disks")
        wrong = {
            "disks[0].image": any(disk.image for disk in self.disks[:1]) and is_container,
            "process": self.process is not None and not is_container,
            "disks[].mountPath and readOnly": bool(mounted) and not is_container,
            "cloudInit": self.cloud_init is not None and is_container,
            "firmware": self.firmware not in (None, Firmware.BIOS) and is_container,
            "tpm": self.tpm and is_container,
            "display": self.display is not Display.NONE and is_container,
        }
        for field, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(f"{field} is not for virtualComputer.type: {self.virtual_computer.type}")
        return self

    @model_validator(mode="after")
    def _unique_names(self) -> EndophyteSpec:
        for what, values in (
            ("disk name", [disk.name for disk in self.disks]),
            ("mountPath", self._mount_paths),
            ("published port", [(port.port, port.protocol) for port in self.ports]),
            ("MAC", [nic.mac for nic in self.networks if nic.mac]),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"the same {what} is given twice")
        return self

    @model_validator(mode="after")
    def _files_beside_mounts(self) -> EndophyteSpec:
        for file in self.process.files if self.process else ():
            if any(mount == file.path or mount.startswith(f"{file.path}/") for mount in self._mount_paths):
                raise ValueError(f"{file.path} cannot be a file and a folder")
        return self

    @property
    def _mount_paths(self) -> list[str]:
        folders = self.process.empty_dirs if self.process else ()
        return [
            *(disk.mount_path for disk in self.disks if disk.mount_path),
            *(folder.path for folder in folders),
        ]

    @property
    def wants_protection(self) -> bool:
        """Whether a secondary in lockstep is asked for, and a host for it set aside."""
        computer = self.virtual_computer
        return computer.memory_sync is MemorySync.CONTINUOUS and computer.dedicated_nodes > 1

    @property
    def is_gated(self) -> bool:
        """Whether traffic that lockstep does not compare is held back, from the next power-on."""
        return self.wants_protection and self.protection.uncovered_traffic is UncoveredTraffic.HOLD


class EndophyteManifest(ManifestRecord):
    """A manifest file's object of kind Endophyte. `apiVersion: v1` is the seed form of the canonical group."""

    api_version: Literal["v1", "mycelium.network/v1"] = "mycelium.network/v1"
    kind: Literal["Endophyte"] = "Endophyte"
    metadata: Metadata
    spec: EndophyteSpec

    @model_validator(mode="after")
    def _annotations_known(self) -> EndophyteManifest:
        service_type = self.metadata.annotations.get(SERVICE_TYPE, "endophyte")
        if service_type != "endophyte":
            raise ValueError(f"annotation {SERVICE_TYPE}: {service_type[:40]!r} contradicts kind Endophyte")
        level = self.metadata.annotations.get(ISOLATION_LEVEL, "shared")
        if level not in ("shared", "dedicated"):
            raise ValueError(
                f"annotation {ISOLATION_LEVEL}: {level[:40]!r} is neither 'shared' nor 'dedicated'"
            )
        return self

    @property
    def is_dedicated(self) -> bool:
        """Whether no other Endophyte may share its hosts (`isolation-level: dedicated`)."""
        return self.metadata.annotations.get(ISOLATION_LEVEL) == "dedicated"
