"""From a domain to an Endophyte's manifest and to the images that have to be made for it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vdc.images.reference import DEFAULT_TAG, normalise_reference
from vdc.interchange.disks import DiskFile, DomainDisk, resolved
from vdc.interchange.domain import Domain
from vdc.interchange.losses import Ledger, Loss, in_order
from vdc.model.errors import InvalidError, RefusedError
from vdc.model.ids import check_dns_label
from vdc.model.manifest import (
    ANNOTATION_PREFIX,
    Disk,
    Display,
    EndophyteManifest,
    EndophyteSpec,
    MemorySync,
    Metadata,
    NetworkPort,
    Resources,
    VirtualComputer,
)

TITLE = ANNOTATION_PREFIX + "title"
DESCRIPTION = ANNOTATION_PREFIX + "description"
IMPORTED_FROM = ANNOTATION_PREFIX + "imported-from"
DEFAULT_NETWORK = "default"
_FOLDER = "imported/"  # of the names of images that nobody named
_NO_LABEL = re.compile(r"[^a-z0-9-]+")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user said beside the domain. `networks`: overlays by the names of libvirt's networks and bridges."""

    name: str | None = None
    image_name: str | None = None
    networks: Mapping[str, str] = field(default_factory=dict)
    protect: bool = True


@dataclass(frozen=True, slots=True)
class DiskToImport:
    """One image to make: of `file`, under `name`. `stated_backing`: files that the XML says lie below it."""

    path: str  # in the XML
    name: str
    file: DiskFile
    stated_backing: tuple[DiskFile, ...]


@dataclass(frozen=True, slots=True)
class Import:
    """What is to be done. The first image has the first disk, and the domain's kernel where it names one."""

    manifest: EndophyteManifest
    disks: tuple[DiskToImport, ...]
    domain: Domain
    losses: tuple[Loss, ...]


def plan_domain(
    domain: Domain, wishes: Wishes, volumes: Mapping[tuple[str, str], str] | None = None
) -> Import:
    """Map it. `volumes`: the files of pools' volumes.

    Raises InvalidError (`name-invalid`, `network-unknown`, `image-ref-invalid`), RefusedError (`domain-unsupported`,
    `disk-unsupported`).
    """
    if not domain.disks and domain.computer.kernel is None:
        raise RefusedError(
            "it has no disk with content to start from",
            hint="import its installed disk, or create a VM: vdc create",
            code="domain-unsupported",
        )
    ledger = Ledger()
    name = _name(domain, wishes)
    images = _image_names(domain.disks, name, wishes.image_name)
    networks = tuple(_network(domain, index, wishes, ledger) for index in range(len(domain.nics)))
    spec = EndophyteSpec(
        virtual_computer=VirtualComputer(
            memory_sync=MemorySync.CONTINUOUS if wishes.protect else MemorySync.NONE
        ),
        image=images[0],
        resources=Resources(cpus=domain.computer.cpus, memory=domain.computer.memory_bytes),
        disks=_disks(domain.disks, images),
        networks=networks,
        firmware=domain.computer.firmware,
        tpm=domain.tpm,
        display=Display.VNC if domain.has_display else Display.NONE,
    )
    return Import(
        manifest=EndophyteManifest(metadata=_metadata(domain, name), spec=spec),
        disks=tuple(
            DiskToImport(disk.element.path, image, resolved(disk, volumes or {}), disk.backing)
            for disk, image in zip(domain.disks, images, strict=False)
        ),
        domain=domain,
        losses=in_order((*domain.losses, *ledger.found)),
    )


def _name(domain: Domain, wishes: Wishes) -> str:
    if wishes.name is not None:
        return wishes.name
    name = _NO_LABEL.sub("-", domain.computer.name.lower())[:63].strip("-")
    try:
        return check_dns_label(name)
    except ValueError as error:
        raise InvalidError(
            f"no name can be made of {domain.computer.name[:80]!r}",
            hint="choose one: --name NEW",
            code="name-invalid",
        ) from error


def _image_names(disks: tuple[DomainDisk, ...], name: str, wanted: str | None) -> tuple[str, ...]:
    """The first image's name, and one for each further disk that tells it apart."""
    first = normalise_reference(wanted or f"{_FOLDER}{name}:{DEFAULT_TAG}")
    path, _, tag = first.rpartition(":")
    return (first, *(normalise_reference(f"{path}-{disk.name}:{tag}") for disk in disks[1:]))


def _disks(disks: tuple[DomainDisk, ...], images: tuple[str, ...]) -> tuple[Disk, ...]:
    """The first is the image's own; it is named so that the others are not mistaken for it."""
    if len(disks) < 2:
        return ()
    further = zip(disks[1:], images[1:], strict=True)
    return (Disk(name=disks[0].name), *(Disk(name=disk.name, image=image) for disk, image in further))


def _network(domain: Domain, index: int, wishes: Wishes, ledger: Ledger) -> NetworkPort:
    nic = domain.nics[index]
    network = wishes.networks.get(nic.source)
    if network is None:
        network = DEFAULT_NETWORK
        if nic.source != DEFAULT_NETWORK:
            what = f"{nic.source[:60]} becomes" if nic.source else "it is connected to"
            ledger.change(nic.element, f"{what} overlay {DEFAULT_NETWORK}; another one: --network", "/source")
    return NetworkPort(network=network, mac=nic.mac)


def _metadata(domain: Domain, name: str) -> Metadata:
    computer = domain.computer
    origin = f"libvirt {computer.name} {computer.uuid}".strip()
    texts = {TITLE: computer.title, DESCRIPTION: computer.description, IMPORTED_FROM: origin}
    return Metadata(name=name, annotations={key: text for key, text in texts.items() if text})


def parse_networks(pairs: tuple[str, ...]) -> dict[str, str]:
    """`--network NETWORK=OVERLAY` as a mapping; ValueError with what is wrong."""
    networks: dict[str, str] = {}
    for pair in pairs:
        theirs, separator, ours = pair.rpartition("=")
        if not separator or not theirs:
            raise ValueError(f"{pair[:80]!r} is not of the form NETWORK=OVERLAY")
        if theirs in networks:
            raise ValueError(f"network {theirs[:60]!r} is given twice")
        networks[theirs] = check_dns_label(ours)
    return networks
