"""Templates: manifests that ship with the program and that `vdc create` fills in."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from ipaddress import IPv4Address

from vdc.images.reference import is_digest, normalise_reference
from vdc.model.base import Record
from vdc.model.errors import BugError, NotFoundError
from vdc.model.manifest import (
    ANNOTATION_PREFIX,
    CloudInit,
    Disk,
    EndophyteManifest,
    MemorySync,
    Metadata,
    NetworkPort,
)
from vdc.model.manifest_file import load_text

DEFAULT_TEMPLATE = "server"
_DESCRIPTION = ANNOTATION_PREFIX + "description"
_SUFFIX = ".yaml"


class Template(Record):
    """A named manifest with what it is for."""

    name: str
    description: str
    manifest: EndophyteManifest


class Wishes(Record):
    """What a command line changes about a template."""

    image: str | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    nodes: int | None = None
    no_protect: bool = False
    address: IPv4Address | None = None
    user: str | None = None
    ssh_keys: tuple[str, ...] = ()


def template_names() -> tuple[str, ...]:
    """All of them, sorted."""
    return tuple(sorted(item.name.removesuffix(_SUFFIX) for item in _files()))


def list_templates() -> tuple[Template, ...]:
    """All of them, read."""
    return tuple(load_template(name) for name in template_names())


def load_template(name: str) -> Template:
    """One by its name; `NotFoundError` (`template-not-found`)."""
    for item in _files():
        if item.name == name + _SUFFIX:
            return _read(name, item.read_bytes())
    close = difflib.get_close_matches(name, template_names(), n=1)
    raise NotFoundError(
        f"there is no template {name[:80]!r} (known: {', '.join(template_names())})",
        hint=f"did you mean {close[0]}?" if close else "vdc get templates",
        code="template-not-found",
    )


def template_for(name: str, wanted: str | None) -> Template:
    """The wanted template, else the one that the name equals, else the default one."""
    if wanted is None:
        wanted = name if name in template_names() else DEFAULT_TEMPLATE
    return load_template(wanted)


def fill_in(template: Template, name: str, wishes: Wishes) -> EndophyteManifest:
    """The manifest of a new Endophyte; `pydantic.ValidationError` where a wish is out of bounds."""
    base = template.manifest
    annotations = {key: value for key, value in base.metadata.annotations.items() if key != _DESCRIPTION}
    spec = base.spec
    computer = spec.virtual_computer
    if wishes.nodes is not None:
        computer = computer.with_(dedicated_nodes=wishes.nodes)
    if wishes.no_protect:
        computer = computer.with_(memory_sync=MemorySync.NONE)
    resources = spec.resources.with_(
        cpus=wishes.cpus if wishes.cpus is not None else spec.resources.cpus,
        memory=wishes.memory_bytes if wishes.memory_bytes is not None else spec.resources.memory,
    )
    spec = spec.with_(
        virtual_computer=computer,
        resources=resources,
        image=_image(wishes.image or spec.image),
        disks=_disks(spec.disks, wishes.disk_bytes),
        networks=_networks(spec.networks, wishes.address),
        cloud_init=_cloud_init(spec.cloud_init, wishes),
    )
    metadata = Metadata(name=name, labels=base.metadata.labels, annotations=annotations)
    return base.with_(metadata=metadata, spec=spec)


def _image(text: str) -> str:
    """A name in full; digests and sources as they are."""
    from vdc.cli.local_images import is_source

    return text if is_digest(text) or is_source(text) else str(normalise_reference(text))


def _disks(disks: tuple[Disk, ...], size_bytes: int | None) -> tuple[Disk, ...]:
    if size_bytes is None:
        return disks
    first = disks[0].name if disks else "system"
    return (Disk(name=first, size=size_bytes), *disks[1:])


def _networks(networks: tuple[NetworkPort, ...], address: IPv4Address | None) -> tuple[NetworkPort, ...]:
    if address is None:
        return networks
    return (networks[0].with_(address=address), *networks[1:])


def _cloud_init(given: CloudInit | None, wishes: Wishes) -> CloudInit | None:
    if wishes.user is None and not wishes.ssh_keys:
        return given
    given = given or CloudInit()
    keys = (*given.ssh_authorized_keys, *wishes.ssh_keys)
    return given.with_(user=wishes.user or given.user, ssh_authorized_keys=keys)


def _files() -> Iterator[Traversable]:
    return (item for item in (files("vdc") / "templates").iterdir() if item.name.endswith(_SUFFIX))


def _read(name: str, text: bytes) -> Template:
    loaded = load_text(text, f"template {name}")[0]
    if loaded.manifest is None:
        raise BugError(f"template {name} is damaged: {loaded.error}", code="template-invalid")
    description = loaded.manifest.metadata.annotations.get(_DESCRIPTION, "")
    return Template(name=name, description=description, manifest=loaded.manifest)
