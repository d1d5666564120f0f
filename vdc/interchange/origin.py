"""Where a domain's XML comes from: a libvirt, or a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vdc.interchange.domain import Domain, read_domain
from vdc.interchange.element import MAX_BYTES
from vdc.interchange.libvirt import LibvirtDomain, read_libvirt
from vdc.interchange.losses import Loss, Verdict
from vdc.model.errors import InvalidError, NotFoundError

_LAST = 2**31  # behind everything in the document


@dataclass(frozen=True, slots=True)
class Origin:
    """A domain that is off, the files of its pools' volumes, and what is not in its XML."""

    domain: Domain
    volumes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    losses: tuple[Loss, ...] = ()
    uri: str = ""  # empty: a file, and nobody can say whether the domain is off
    name: str = ""

    def require_off(self) -> None:
        """Ask once more, where there is somebody to ask; raises as `read_libvirt`."""
        if self.uri:
            read_libvirt(self.uri, self.name)


def from_libvirt(uri: str, name: str) -> Origin:
    """Ask a libvirt; raises as `read_libvirt` and `read_domain`."""
    found = read_libvirt(uri, name)
    domain = read_domain(found.xml.encode())
    wanted = [disk.file.volume for disk in domain.disks if disk.file.volume is not None]
    volumes: dict[tuple[str, str], str] = {}
    if wanted:
        paths = read_libvirt(uri, name, wanted).volumes
        volumes = {volume: path for volume, path in zip(wanted, paths, strict=False) if path}
    return Origin(domain, volumes, _beside(found), uri, name)


def from_file(path: Path) -> Origin:
    """Read a file as `virsh dumpxml --inactive` writes it; raises as `read_domain`."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}", code="xml-not-found") from error
    except OSError as error:
        raise InvalidError(f"{path} cannot be read: {error.strerror}", code="xml-invalid") from error
    return Origin(read_domain(text))


def _beside(found: LibvirtDomain) -> tuple[Loss, ...]:
    """What libvirt keeps beside the XML."""
    losses = []
    if found.autostart:
        text = f"libvirt starts the original when its machine starts: virsh autostart --disable {found.name}"
        losses.append(Loss(Verdict.DROPPED, "autostart", text, _LAST))
    if found.snapshots:
        names = ", ".join(found.snapshots[:5]) + (", ..." if len(found.snapshots) > 5 else "")
        text = f"{len(found.snapshots)} ({names[:200]}): only what the disks hold now is taken"
        losses.append(Loss(Verdict.DROPPED, "snapshots", text, _LAST))
    return tuple(losses)
