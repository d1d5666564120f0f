"""From an Endophyte, its image and this host to the machine that QEMU is started with. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID, uuid5

from hostagent.drivers.disk.copy import DiskSource
from hostagent.drivers.guest.seed import seed
from hostagent.drivers.net import tap_name
from hostagent.drivers.qemu.spec import (
    AGENT_PORT,
    AGENT_SOCKET,
    GUEST_SOCKET,
    IMAGE_DIR,
    OUTPUT_LOG,
    DiskBoot,
    DiskSpec,
    GuestPort,
    KernelBoot,
    MachineSpec,
    NicSpec,
)
from hostagent.supervisor.guestnet import domain_of, guest_nics
from vdc.images.blobs import relative_path
from vdc.model.endophyte import Endophyte, MachineFacts
from vdc.model.guest import CHANNEL_PORT, FW_CFG_NAME, OUTPUT_PORT, GuestConfig, GuestVolume
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.manifest import ComputerType
from vdc.model.memory import SavedMachine
from vdc.model.network import Network
from vdc.model.process import EnvField, ImageProcess, Process
from vdc.model.program import guest_files, guest_process

MOST_NAMESERVERS: Final = 3  # that a resolver asks (resolv.conf(5))
_CONTAINER_PORTS: Final = (
    GuestPort(CHANNEL_PORT, GUEST_SOCKET),
    GuestPort(OUTPUT_PORT, OUTPUT_LOG, is_log=True),
)
_AGENT_PORTS: Final = (GuestPort(AGENT_PORT, AGENT_SOCKET),)


def machine_spec(
    endophyte: Endophyte, image: Image, facts: MachineFacts, disks: Sequence[DiskSpec]
) -> MachineSpec:
    """The machine; the same on both hosts of a pair but for the names of taps and disk files."""
    spec = endophyte.manifest.spec
    return MachineSpec(
        name=endophyte.name,
        uid=endophyte.uid,
        cpus=spec.resources.cpus,
        memory_bytes=_whole_mib(spec.resources.memory),
        boot=_boot(endophyte, image),
        disks=tuple(disks),
        nics=tuple(
            NicSpec(ifname=tap_name(endophyte.uid, index), mac=nic.mac)
            for index, nic in enumerate(endophyte.nics)
        ),
        accelerator="kvm" if facts.accelerator == "kvm" else "tcg",
        cpu_model=facts.cpu_model,
        firmware=endophyte.firmware,
        tpm=spec.tpm,
        display=spec.display,
        guest_ports=_ports(endophyte, facts),
        config_name=FW_CFG_NAME if is_container(endophyte) else "",
        has_seed=spec.cloud_init is not None,
    )


def saved_machine(spec: MachineSpec, facts: MachineFacts) -> SavedMachine:
    """What a memory that is saved of this machine has to find again."""
    return SavedMachine(
        machine=spec.machine, accelerator=spec.accelerator, qemu_version=facts.qemu_version,
        cpu_model=spec.cpu_model, cpus=spec.cpus, memory_bytes=spec.memory_bytes, firmware=spec.firmware,
        display=spec.display, disk_sizes_bytes=facts.disk_sizes_bytes, macs=tuple(nic.mac for nic in spec.nics),
        ports=tuple(port.name for port in spec.guest_ports), has_config=bool(spec.config_name),
        has_seed=spec.has_seed,
    )  # fmt: skip


def _ports(endophyte: Endophyte, facts: MachineFacts) -> tuple[GuestPort, ...]:
    if is_container(endophyte):
        return _CONTAINER_PORTS
    return _AGENT_PORTS if facts.has_agent_port else ()


def has_agent_port(image: Image) -> bool:
    """Whether a guest that is powered on now gets a port for QEMU's guest agent."""
    return image.kind is ImageKind.DISK


def seed_of(endophyte: Endophyte, networks: Mapping[str, Network], facts: MachineFacts) -> bytes | None:
    """What its cloud-init is told, as a disk; None where the manifest says nothing of it."""
    given = endophyte.manifest.spec.cloud_init
    if given is None:
        return None
    return seed(
        uid=endophyte.uid,
        hostname=endophyte.name,
        given=given,
        nics=guest_nics(endophyte, networks),
        domain=domain_of(endophyte, networks),
        nameservers=facts.nameservers,
    )


def is_container(endophyte: Endophyte) -> bool:
    """Whether it runs a container image's program under our init."""
    return endophyte.manifest.spec.virtual_computer.type is ComputerType.CONTAINER


def disk_sources(endophyte: Endophyte, images: Mapping[str, Image]) -> tuple[DiskSource, ...]:
    """What each disk of a new VM begins with: the image's own first, then what the manifest's others name, or nothing.

    `images`: all of `endophyte.image_digests`.
    """
    disks = endophyte.manifest.spec.disks
    given = list(zip(disks, endophyte.disk_image_digests or ("",) * len(disks), strict=True))
    sources: list[DiskSource] = []
    if images[endophyte.image_digest].disk is not None:
        size_bytes = given.pop(0)[0].size if given else None
        sources.append(_over(images[endophyte.image_digest], size_bytes))
    for disk, digest in given:
        label = str(uuid5(UUID(endophyte.uid), disk.name)) if disk.mount_path else ""
        empty = DiskSource(size_bytes=disk.size, file_system=label)
        sources.append(_over(images[digest], disk.size) if digest else empty)
    return tuple(sources)


def _over(image: Image, size_bytes: int | None) -> DiskSource:
    assert image.disk is not None
    return DiskSource(size_bytes, relative_path(image.disk.digest), image.disk_format)


def guest_config(
    endophyte: Endophyte, image: Image, networks: Mapping[str, Network], facts: MachineFacts
) -> GuestConfig:
    """What a container's guest is told. Raises InvalidError as `guest_process`."""
    spec = endophyte.manifest.spec
    given = spec.process or Process()
    hostname = given.hostname or endophyte.name
    fields = {
        EnvField.POD_IP: endophyte.nics[0].address if endophyte.nics else "",
        EnvField.UID: endophyte.uid,
    }
    return GuestConfig(
        hostname=hostname,
        domain=domain_of(endophyte, networks),
        nameservers=facts.nameservers[:MOST_NAMESERVERS],
        nics=guest_nics(endophyte, networks),
        volumes=tuple(
            GuestVolume(disk=number, path=disk.mount_path, read_only=disk.read_only)
            for number, disk in enumerate(spec.disks)
            if disk.mount_path is not None
        ),
        empty_dirs=given.empty_dirs,
        files=guest_files(given),
        process=guest_process(given, image.process or ImageProcess(), hostname, fields),
    )


def _boot(endophyte: Endophyte, image: Image) -> KernelBoot | DiskBoot:
    if image.kind is ImageKind.DISK or image.kernel is None or image.initrd is None:
        return DiskBoot()
    return KernelBoot(
        kernel=_in_sandbox(image.kernel),
        initrd=_in_sandbox(image.initrd),
        cmdline=f"{image.cmdline} vdc.hostname={endophyte.name}".strip(),
    )


def _in_sandbox(blob: Blob) -> str:
    return f"{IMAGE_DIR}/{relative_path(blob.digest)}"


def _whole_mib(size_bytes: int) -> int:
    return (size_bytes + 2**20 - 1) // 2**20 * 2**20
