"""From an Endophyte, its image and this host to the machine that QEMU is started with. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hostagent.drivers.disk.copy import DiskSource
from hostagent.drivers.guest.seed import seed
from hostagent.drivers.net import tap_name
from hostagent.drivers.qemu.spec import (
    AGENT_PORT,
    AGENT_SOCKET,
    IMAGE_DIR,
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
from vdc.model.image import Blob, Image, ImageKind
from vdc.model.network import Network


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
        guest_ports=(GuestPort(AGENT_PORT, AGENT_SOCKET),) if facts.has_agent_port else (),
        has_seed=spec.cloud_init is not None,
    )


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


def disk_sources(endophyte: Endophyte, image: Image) -> tuple[DiskSource, ...]:
    """What each disk of a new VM begins with: the image's own first, then the manifest's empty ones."""
    given = list(endophyte.manifest.spec.disks)
    sources: list[DiskSource] = []
    if image.disk is not None:
        size = given.pop(0).size if given else None
        sources.append(DiskSource(size, relative_path(image.disk.digest), image.disk_format))
    return (*sources, *(DiskSource(size_bytes=disk.size) for disk in given))


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
