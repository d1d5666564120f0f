"""`vdc image`: import, list, describe, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcGroup, output_option, to_reference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from vdc.api.client import ApiClient
    from vdc.cli.progress import StatusLine
    from vdc.images.source import ImportPlan


@click.group(cls=VdcGroup, example="vdc image import debian.qcow2 --name me/debian\nvdc image ls")
def image() -> None:
    """Import, list and remove images."""


@image.command(
    "import",
    example="vdc image import debian-12.qcow2 --name me/debian:12\n"
    "vdc image import data.img --format raw\nvdc image import /var/cache/vdc/images/mini/current",
)
@click.argument("source")
@click.option("--name", callback=to_reference, metavar="REF", help="Name it so; otherwise after the source.")
@click.option(
    "--format",
    "disk_format",
    metavar="qcow2|raw",
    help="What the disk file is; otherwise told by its header.",
)
def import_image(source: str, name: str | None, disk_format: str | None) -> None:
    """Import a disk file (qcow2 or raw), or the output folder of a recipe."""
    from vdc.cli.errors import UsageFault
    from vdc.cli.progress import StatusLine
    from vdc.cli.session import call
    from vdc.images.source import plan_import
    from vdc.model.errors import VdcError

    with StatusLine() as line:
        try:
            plan = plan_import(
                source,
                name=name,
                disk_format=disk_format,
                progress=lambda file, done, total: line.bytes(f"reading {file}", done, total),
            )
        except VdcError as error:
            if error.code.startswith("source-"):
                raise UsageFault(error.problem) from error
            raise
        sent = call(lambda api: upload(api, plan, line))
    print(f"image/{plan.name} imported ({sent} of {len(plan.files)} files sent)")


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
