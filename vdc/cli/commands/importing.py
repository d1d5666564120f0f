"""`vdc import`: a VM of another system becomes an Endophyte; the original stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcGroup, output_option, to_name, to_reference, wait_options
from vdc.cli.text import clean

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.cli.progress import StatusLine
    from vdc.images.sources import ImportPlan
    from vdc.interchange.contents import Content
    from vdc.interchange.incoming import Import
    from vdc.interchange.origin import Origin
    from vdc.model.manifest import EndophyteManifest

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(
    "import", cls=VdcGroup, example="vdc import libvirt web --dry-run\nvdc import libvirt web --wait"
)
def import_group() -> None:
    """Bring a VM from another system."""


@import_group.command(
    "libvirt",
    example="vdc import libvirt web --dry-run -o yaml >web.yaml\nvdc import libvirt web --network br0=default --wait\n"
    "vdc import libvirt --xml web.xml --name web --no-protect",
)
@click.argument("domain", required=False)
@click.option("--uri", metavar="URI", help="Which libvirt of this machine; otherwise qemu:///system.")
@click.option("--xml", type=_FILE, metavar="FILE", help="Read this domain XML instead of asking a libvirt.")
@click.option("--name", callback=to_name, metavar="NEW", help="Name it so; otherwise after the domain.")
@click.option(
    "--image-name", callback=to_reference, metavar="REF", help="Name the image of its first disk so."
)
@click.option(
    "--network", "networks", multiple=True, metavar="NETWORK=OVERLAY", help="Connect its NICs there to this overlay."
)  # fmt: skip
@click.option(
    "--backing", multiple=True, type=_FILE, metavar="FILE", help="A file elsewhere that may lie below a disk."
)
@click.option("--no-protect", is_flag=True, help="One copy only, without lockstep.")
@click.option(
    "--dry-run", is_flag=True, help="Print the manifest and what is not kept; copy and create nothing."
)
@wait_options("the VM runs and, if asked for, is in lockstep")
@output_option("name")
def import_libvirt(
    *,
    domain: str | None,
    uri: str | None,
    xml: Path | None,
    name: str | None,
    image_name: str | None,
    networks: tuple[str, ...],
    backing: tuple[Path, ...],
    no_protect: bool,
    dry_run: bool,
    wait: bool,
    timeout: float,
    output: str,
) -> None:
    """Make an Endophyte of a libvirt domain that is off: its disks become images, its XML a manifest.

    What cannot be kept is said on stderr, a line each with its place in the XML. The domain and its disks are only
    read; it is not started, changed or removed, and must stay off while its successor runs.
    """
    from vdc.interchange.contents import find_contents
    from vdc.interchange.incoming import Wishes, plan_domain

    mapping = _networks(networks)
    origin = _origin(domain, uri, xml)
    wishes = Wishes(name=name, image_name=image_name, networks=mapping, protect=not no_protect)
    plan = plan_domain(origin.domain, wishes, origin.volumes)
    contents = find_contents(plan.disks, backing)
    _say(plan, origin, contents)
    if dry_run:
        from vdc.cli.commands.create import print_manifest

        print_manifest(plan.manifest, output)
        return
    _import(origin, plan, contents, output, timeout if wait else None)


def _networks(pairs: tuple[str, ...]) -> dict[str, str]:
    from vdc.interchange.incoming import parse_networks

    try:
        return parse_networks(pairs)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--network") from error


def _origin(domain: str | None, uri: str | None, xml: Path | None) -> Origin:
    from vdc.interchange.libvirt import DEFAULT_URI
    from vdc.interchange.origin import from_file, from_libvirt

    if (domain is None) == (xml is None) or (xml is not None and uri is not None):
        raise click.UsageError("give either the name of a domain or --xml FILE", click.get_current_context())
    if xml is not None:
        return from_file(xml)
    assert domain is not None
    return from_libvirt(uri or DEFAULT_URI, domain)


def _say(plan: Import, origin: Origin, contents: tuple[Content, ...]) -> None:
    """What is read and what is lost, on stderr: stdout is the manifest's."""
    for content in contents:
        how = "copied flat from" if content.is_flattened else "made of"
        click.echo(f"image {content.disk.name}: {how} {clean(str(content))}", err=True)
    for loss in (*plan.losses, *origin.losses):
        click.echo(clean(str(loss)), err=True)


def _import(
    origin: Origin, plan: Import, contents: tuple[Content, ...], output: str, wait_s: float | None
) -> None:
    from vdc.cli.commands.create import create_and_tell
    from vdc.cli.progress import StatusLine
    from vdc.cli.session import call
    from vdc.images.chain import require_unchanged

    is_quiet = output in ("json", "yaml", "name")
    call(lambda api: _check_free(api, plan.manifest))
    with StatusLine() as line:
        _send_images(plan, contents, line, is_quiet=is_quiet)
    for content in contents:
        require_unchanged(content.links)
    origin.require_off()
    call(lambda api: create_and_tell(api, None, plan.manifest, wait_s, output))


async def _check_free(api: ApiClient, manifest: EndophyteManifest) -> None:
    """What would be refused in the end, before hours of copying."""
    from vdc.model.errors import ConflictError, NotFoundError

    name = manifest.metadata.name
    try:
        await api.get_endophyte(name)
    except NotFoundError:
        known = {network.name for network in (await api.list_networks()).items}
        for port in manifest.spec.networks:
            if port.network not in known:
                raise NotFoundError(
                    f"network {port.network} does not exist",
                    hint="vdc get networks",
                    code="network-not-found",
                ) from None
        return
    raise ConflictError(
        f"an Endophyte named {name} exists already", hint="choose another name: --name NEW", code="name-taken"
    )


def _send_images(plan: Import, contents: tuple[Content, ...], line: StatusLine, *, is_quiet: bool) -> None:
    from vdc.interchange.contents import plan_content, plan_kernel

    computer = plan.domain.computer
    if computer.kernel is not None and not contents:
        _send(
            plan_kernel(plan.manifest.spec.image, computer.kernel, None, line.bytes), line, is_quiet=is_quiet
        )
    for place, content in enumerate(contents):
        is_first = place == 0
        with plan_content(content, line.bytes, computer.firmware if is_first else None) as image:
            if is_first and computer.kernel is not None:
                image = plan_kernel(image.name, computer.kernel, image, line.bytes)  # noqa: PLW2901
            _send(image, line, is_quiet=is_quiet)


def _send(image: ImportPlan, line: StatusLine, *, is_quiet: bool) -> None:
    from vdc.cli.session import call
    from vdc.cli.uploading import upload

    sent = call(lambda api: upload(api, image, line))
    line.clear()
    click.echo(f"image/{image.name} imported ({sent} of {len(image.files)} files sent)", err=is_quiet)
    for note in image.notes:
        click.echo(f"note: {clean(note)}", err=True)
