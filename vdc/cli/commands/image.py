"""`vdc image`: import, list, describe, remove, prune."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcGroup, output_option, to_image, to_reference
from vdc.cli.commands.imagebuild import build_image
from vdc.cli.completing import complete_image
from vdc.cli.registries import registry_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vdc.api.models import PruneReport
    from vdc.cli.progress import StatusLine
    from vdc.images.sources import ImportPlan
    from vdc.model.image import Image


@click.group(cls=VdcGroup, example="vdc image import debian.qcow2 --name me/debian\nvdc image ls")
def image() -> None:
    """Import, list and remove images."""


@image.command(
    "import",
    example="vdc image import debian-12.qcow2 --name me/debian:12\n"
    "vdc image import appliance.ova --firmware uefi\nvdc image import disk.raw.xz\n"
    "vdc image import docker://redis:7\nvdc image import oci:folder:tag --name me/app\n"
    "vdc image import data.img --format raw\nvdc image import /var/cache/vdc/images/mini/current",
)
@click.argument("source", type=click.Path(path_type=str))
@click.option("--name", callback=to_reference, metavar="REF", help="Name it so; otherwise after the source.")
@click.option(
    "--format",
    "disk_format",
    type=click.Choice(["qcow2", "raw", "vmdk", "vhdx", "vhd", "vpc", "vdi", "qed", "iso", "ova", "ovf"]),
    metavar="FORMAT",
    help="What the disk file is; otherwise told by its bytes. qcow2, raw, vmdk, vhdx, vhd, vdi, qed, iso, ova, ovf.",
)
@click.option(
    "--firmware",
    type=click.Choice(["bios", "uefi", "uefi-secure"]),
    help="What boots it; otherwise told by the disk.",
)
@click.option("--disk", metavar="FILE", help="Which disk of an appliance; otherwise its first.")
@click.option("--container-disk", is_flag=True, help="The container image carries a VM's disk in /disk.")
@registry_options
@output_option(table=False)
def import_image(
    *,
    source: str,
    name: str | None,
    disk_format: str | None,
    firmware: str | None,
    disk: str | None,
    container_disk: bool,
    authfile: str | None,
    ca: str | None,
    insecure: bool,
    output: str | None,
) -> None:
    """Import a container image, a disk file, an appliance, or the output folder of a recipe.

    Container images: docker://NAME (a registry; a bare name with its registry in it is one too), oci:FOLDER,
    oci-archive:FILE, docker-archive:FILE, each with :TAG.

    Disk files: qcow2, raw, VMDK, VHDX, VHD, VDI, QED, hybrid ISO; compressed by gzip, bzip2, xz or zstd as well.
    Appliances: OVA, or an OVF file with its disks beside it. What guests cannot use as it is, is converted.
    """
    from vdc.cli.errors import UsageFault
    from vdc.cli.progress import StatusLine
    from vdc.cli.registries import to_options
    from vdc.images.sources import ImportOptions, plan_import
    from vdc.model.errors import VdcError
    from vdc.model.manifest import Firmware

    with StatusLine() as line:
        options = ImportOptions(
            name=name,
            disk_format=disk_format,
            firmware=Firmware(firmware) if firmware else None,
            disk=disk,
            is_container_disk=container_disk,
            registry=to_options(authfile, ca, insecure),
            find_image=_find_image,
            progress=line.bytes,
        )
        try:
            with plan_import(source, options) as plan:
                sent = send(plan, line, source)
        except VdcError as error:
            if error.code.startswith("source-"):
                raise UsageFault(error.problem) from error
            raise
    tell(plan, sent, output)


def _find_image(name: str) -> Image | None:
    from vdc.cli.session import call

    entries = call(lambda api: api.list_images()).items
    return next((entry.image for entry in entries if name in entry.names), None)


def send(plan: ImportPlan, line: StatusLine, source: str) -> int:
    """Bring the image of a plan to the cluster; returns how many files were sent."""
    from vdc.cli.session import call
    from vdc.cli.uploading import upload

    return call(lambda api: upload(api, plan, line, source=source))


def tell(plan: ImportPlan, sent: int, output: str | None) -> None:
    """Print what was imported."""
    from vdc.cli.render import print_values
    from vdc.cli.text import clean

    if output is not None:
        values = {
            "name": plan.name,
            "digest": plan.digest,
            "image": plan.image.model_dump(mode="json", exclude_defaults=True),
            "sent": sent,
            "notes": list(plan.notes),
        }
        print_values(values, output)
        return
    print(f"image/{plan.name} imported ({sent} of {len(plan.files)} files sent)")
    for note in plan.notes:
        print(f"note: {clean(note)}", file=sys.stderr)


@image.command("ls", example="vdc image ls -o json")
@output_option("name")
def list_images(output: str) -> None:
    """List images; the same as vdc get images."""
    from vdc.cli.commands.get import show
    from vdc.cli.kinds import IMAGE
    from vdc.cli.session import call

    call(lambda api: show(api, IMAGE, None, output))


@image.command("rm", example="vdc image rm me/debian:12")
@click.argument("name", metavar="REF|DIGEST", callback=to_image, shell_complete=complete_image)
def remove(name: str) -> None:
    """Remove a name of an image, or all names of a digest; its content goes with the last one.

    An image that a VM is made of keeps its last name.
    """
    from vdc.cli.session import call

    call(lambda api: api.remove_image(name))
    print(f"image/{name} removed")


@image.command("prune", example="vdc image prune --dry-run\nvdc image prune --all")
@click.option(
    "--all", "named", is_flag=True, help="Images that have a name too, where no VM is made of them."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@output_option(table=False)
def prune(named: bool, dry_run: bool, output: str | None) -> None:
    """Remove images that have neither a name nor a VM, and what abandoned imports left on the hosts."""
    from vdc.cli.render import print_values, values_of
    from vdc.cli.session import call

    report = call(lambda api: api.prune_images(named=named, dry_run=dry_run))
    if output:
        print_values(values_of(report), output)
    else:
        print("\n".join(prune_lines(report)))


@image.command(
    "push",
    example="vdc image push me/debian:12 docker://registry.example/me/debian:12\n"
    "vdc image push me/debian:12 oci-archive:debian.tar",
)
@click.argument("name", metavar="REF|DIGEST", callback=to_image, shell_complete=complete_image)
@click.argument("destination", metavar="DEST")
@registry_options
def push_image(name: str, destination: str, authfile: str | None, ca: str | None, insecure: bool) -> None:
    """Push an image to a registry, or into an OCI layout or archive; importing that makes the same image again.

    DEST: docker://REGISTRY/NAME:TAG, oci:FOLDER:TAG or oci-archive:FILE:TAG.
    """
    from vdc.cli.errors import UsageFault
    from vdc.cli.progress import StatusLine
    from vdc.cli.pushing import push
    from vdc.cli.registries import to_options
    from vdc.cli.session import call
    from vdc.images.oci.push import parse_destination
    from vdc.model.errors import InvalidError

    try:
        target = parse_destination(destination)
    except InvalidError as error:
        raise UsageFault(error.problem) from error
    options = to_options(authfile, ca, insecure)
    with StatusLine() as line:
        entry = call(lambda api: push(api, name, target, options, line))
    print(f"image/{name} pushed to {destination} ({entry.digest})")


@image.command("describe", example="vdc image describe mycelium/mini")
@click.argument("name", metavar="REF|DIGEST", shell_complete=complete_image)
@output_option(table=False)
def describe_image(name: str, output: str | None) -> None:
    """Everything about one image, by its name or digest."""
    from vdc.cli.commands.describe import describe_object

    describe_object("image", name, output)


def prune_lines(report: PruneReport) -> Iterator[str]:
    """What goes or went, for people."""
    from vdc.cli.text import clean
    from vdc.model.units import format_size

    verb = "would remove" if report.dry_run else "removed"
    for entry in report.images:
        yield f"{verb} image/{entry.names[0] if entry.names else entry.digest} ({format_size(entry.size_bytes)})"
    for host in report.hosts:
        if host.problem:
            yield f"{host.host} was not tidied up: {clean(host.problem)}"
        elif host.size_bytes:
            what = f"{len(host.blobs)} files that no image needs, {host.unfinished} unfinished"
            yield f"{verb} on {host.host}: {what} ({format_size(host.size_bytes)})"
    total = report.size_bytes * len(report.hosts) + sum(host.size_bytes for host in report.hosts)
    freed = "would be freed" if report.dry_run else "freed"
    yield f"{format_size(report.size_bytes)} on each host, {format_size(total)} in all {freed}"


image.add_command(build_image)
