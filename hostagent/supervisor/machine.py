"""From an Endophyte, its image and this host to the machine that QEMU is started with. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID, uuid5

from hostagent.drivers.disk.copy import DiskSource
from hostagent.drivers.net import tap_name
from hostagent.drivers.qemu.spec import (
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
from vdc.images.blobs import relative_path
from vdc.model.endophyte import Endophyte, MachineFacts
from vdc.model.guest import CHANNEL_PORT, FW_CFG_NAME, OUTPUT_PORT, GuestConfig, GuestNic, GuestVolume
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.layout import first_further, further_disks, own_disk
from vdc.model.manifest import ComputerType
from vdc.model.network import Network
from vdc.model.process import ImageProcess, Process
from vdc.model.program import guest_files, guest_process

_CONTAINER_PORTS: Final = (
    GuestPort(CHANNEL_PORT, GUEST_SOCKET),
    GuestPort(OUTPUT_PORT, OUTPUT_LOG, is_log=True),
)


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
        guest_ports=_CONTAINER_PORTS if is_container(endophyte) else (),
        config_name=FW_CFG_NAME if is_container(endophyte) else "",
    )


def is_container(endophyte: Endophyte) -> bool:
    """Whether it runs a container image's program under our init."""
    return endophyte.manifest.spec.virtual_computer.type is ComputerType.CONTAINER


def disk_sources(endophyte: Endophyte, image: Image) -> tuple[DiskSource, ...]:
    """What each disk of a new VM begins with: the image's own first, then the manifest's empty ones."""
    given = list(endophyte.manifest.spec.disks)
    sources: list[DiskSource] = []
    if image.disk is not None:
        size = given.pop(0).size if given else None
        sources.append(DiskSource(size, relative_path(image.disk.digest), image.disk_format))
    for disk in given:
        label = str(uuid5(UUID(endophyte.uid), disk.name)) if disk.mount_path else ""
        sources.append(DiskSource(size_bytes=disk.size, file_system=label))
    return tuple(sources)


def guest_config(
    endophyte: Endophyte, image: Image, networks: Mapping[str, Network], nameservers: Sequence[str]
) -> GuestConfig:
    """What a container's guest is told; the same for both copies. Raises InvalidError as `guest_process`.

    The overlays have no gateway: nothing outside is reached by way of one.
    """
    spec = endophyte.manifest.spec
    given = spec.process or Process()
    nics = [(nic, networks[nic.network]) for nic in endophyte.nics]
    first = first_further(image)
    return GuestConfig(
        hostname=endophyte.name,
        domain=nics[0][1].domain if nics else "",
        nameservers=tuple(nameservers),
        nics=tuple(
            GuestNic(mac=nic.mac, address=nic.address, prefix=network.cidr.prefixlen, mtu=network.mtu)
            for nic, network in nics
        ),
        volumes=tuple(
            GuestVolume(disk=first + place, path=disk.mount_path, read_only=disk.read_only)
            for place, disk in enumerate(further_disks(spec, image))
            if disk.mount_path is not None
        ),
        files=guest_files(given),
        process=guest_process(given, image.process or ImageProcess(), endophyte.name),
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
