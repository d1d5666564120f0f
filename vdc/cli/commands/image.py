"""`vdc image`: import, list, describe, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcGroup, output_option, to_reference
from vdc.cli.commands.imagebuild import build_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from vdc.api.client import ApiClient
    from vdc.cli.progress import StatusLine
    from vdc.images.sources import ImportPlan


@click.group(cls=VdcGroup, example="vdc image import debian.qcow2 --name me/debian\nvdc image ls")
def image() -> None:
    """Import, list and remove images."""


@image.command(
    "import",
    example="vdc image import debian-12.qcow2 --name me/debian:12\n"
    "vdc image import data.img --format raw\nvdc image import /var/cache/vdc/images/mini/current",
)
@click.argument("source", type=click.Path(path_type=str))
@click.option("--name", callback=to_reference, metavar="REF", help="Name it so; otherwise after the source.")
@click.option(
    "--format",
    "disk_format",
    metavar="qcow2|raw",
    help="What the disk file is; otherwise told by its header.",
)
@click.option(
    "--firmware",
    type=click.Choice(["bios", "uefi", "uefi-secure"]),
    help="What boots it; otherwise told by the disk.",
)
@output_option(table=False)
def import_image(
    source: str, name: str | None, disk_format: str | None, firmware: str | None, output: str | None
) -> None:
    """Import a disk file (qcow2 or raw), or the output folder of a recipe."""
    from vdc.cli.errors import UsageFault
    from vdc.cli.progress import StatusLine
    from vdc.images.sources import ImportOptions, plan_import
    from vdc.model.errors import VdcError
    from vdc.model.manifest import Firmware

    with StatusLine() as line:
        options = ImportOptions(
            name=name,
            disk_format=disk_format,
            firmware=Firmware(firmware) if firmware else None,
            progress=line.bytes,
        )
        try:
            with plan_import(source, options) as plan:
                sent = send(plan, line)
        except VdcError as error:
            if error.code.startswith("source-"):
                raise UsageFault(error.problem) from error
            raise
    tell(plan, sent, output)


def send(plan: ImportPlan, line: StatusLine) -> int:
    """Bring the image of a plan to the cluster; returns how many files were sent."""
    from vdc.cli.session import call

    return call(lambda api: upload(api, plan, line))


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
        print(f"note: {clean(note)}")


async def upload(api: ApiClient, plan: ImportPlan, line: StatusLine) -> int:
    """Send what the host does not hold yet, then name the image; returns how many files were sent."""
    sent = 0
    async with await api.pinned() as host:
        for blob, path in plan.files:
            if not await host.has_blob(blob.digest):
                await host.write_blob(blob.digest, _reader(path, blob.size_bytes, line), blob.size_bytes)
                sent += 1
        await host.register_image(plan.name, plan.image)
    return sent


def _reader(path: Path, size_bytes: int, line: StatusLine) -> Callable[[], AsyncIterator[bytes]]:
    async def chunks() -> AsyncIterator[bytes]:
        done = 0
        with path.open("rb") as file:
            while chunk := file.read(256 * 1024):
                done += len(chunk)
                line.bytes(f"sending {path.name}", done, size_bytes)
                yield chunk

    return chunks


@image.command("ls", example="vdc image ls -o json")
@output_option("name")
def list_images(output: str) -> None:
    """List images; the same as vdc get images."""
    from vdc.cli.commands.get import show
    from vdc.cli.kinds import IMAGE
    from vdc.cli.session import call

    call(lambda api: show(api, IMAGE, None, output))


@image.command("rm", example="vdc image rm me/debian:12")
@click.argument("name", metavar="REF", callback=to_reference)
def remove(name: str) -> None:
    """Remove a name of an image; its content goes with the last one."""
    from vdc.cli.session import call

    call(lambda api: api.remove_image(name))
    print(f"image/{name} removed")


@image.command("describe", example="vdc image describe mycelium/mini")
@click.argument("name", metavar="REF")
@output_option(table=False)
def describe_image(name: str, output: str | None) -> None:
    """Everything about one image, by its name or digest."""
    from vdc.cli.commands.describe import describe_object

    describe_object("image", name, output)


image.add_command(build_image)
