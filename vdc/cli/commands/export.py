"""`vdc export`: a VM's description for another system."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcCommand
from vdc.cli.text import clean

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.interchange.outgoing import Export
    from vdc.model.image import Image

_FOLDER = "/var/lib/libvirt/images"


@click.command(cls=VdcCommand, example="vdc export web -o web.xml\nvdc export web | virsh define /dev/stdin")
@click.argument("name")
@click.option(
    "--format", "form", type=click.Choice(["libvirt"]), default="libvirt", show_default=True, help="For what."
)
@click.option("-o", "--output", "path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write it there; otherwise to standard output.")  # fmt: skip
@click.option(
    "--disk-folder", default=_FOLDER, show_default=True, metavar="DIR", help="Where its disks will be."
)
@click.option("--domain-type", type=click.Choice(["kvm", "qemu"]), default="kvm", show_default=True,
              help="qemu: for a machine without KVM.")  # fmt: skip
def export(name: str, form: str, path: Path | None, disk_folder: str, domain_type: str) -> None:
    """Write a libvirt domain for an Endophyte: the same computer, for `virsh define`.

    The disks are named and not brought; what else a domain cannot say is written to stderr, a line each.
    """
    from vdc.cli.session import call

    del form  # there is one
    folder = disk_folder.rstrip("/")
    if not folder.startswith("/"):
        raise click.BadParameter("it has to be an absolute path", param_hint="--disk-folder")
    made = call(lambda api: _export(api, name, folder, domain_type))
    if path is None:
        print(made.xml, end="")
    else:
        path.write_text(made.xml, encoding="utf-8")
        print(f"{path} written")
    for loss in made.losses:
        click.echo(clean(str(loss)), err=True)


async def _export(api: ApiClient, name: str, folder: str, domain_type: str) -> Export:
    from vdc.interchange.outgoing import export_domain
    from vdc.model.endophyte import Nic
    from vdc.model.manifest import EndophyteManifest, EndophyteSpec, Firmware, Metadata

    view = await api.get_endophyte(name)
    spec = EndophyteSpec.model_validate(view.spec)
    metadata = Metadata(name=name, labels=view.metadata.labels, annotations=view.metadata.annotations)
    status = view.status
    nics = status.nics or tuple(
        Nic(network=port.network, mac=port.mac or status.mac, address="") for port in spec.networks[:1]
    )
    image = await _image(api, spec.image)
    return export_domain(
        EndophyteManifest(metadata=metadata, spec=spec),
        uid=view.metadata.uid,
        nics=nics,
        firmware=status.firmware or spec.firmware or image.firmware or Firmware.BIOS,
        image=image,
        folder=folder,
        domain_type=domain_type,
    )


async def _image(api: ApiClient, reference: str) -> Image:
    """What its image's name or digest leads to now; NotFoundError (`image-not-found`)."""
    from vdc.images.reference import is_digest, normalise_reference
    from vdc.model.errors import NotFoundError

    wanted = reference if is_digest(reference) else normalise_reference(reference)
    for entry in (await api.list_images()).items:
        if wanted in (entry.digest, *entry.names):
            return entry.image
    raise NotFoundError(f"image {wanted} has no name any more", code="image-not-found", hint="vdc image ls")
