"""`vdc verify`: prove that both copies of a VM are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcCommand, output_option, to_name
from vdc.cli.text import clean

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.api.models import VerifyResult


@click.command(cls=VdcCommand, example="vdc verify\nvdc verify web --dry-run\nvdc verify web -o json")
@click.argument("name", required=False, callback=to_name)
@click.option("--dry-run", is_flag=True, help="Only say for how long the guest would stand still.")
@output_option()
def verify(name: str | None, dry_run: bool, output: str) -> None:
    """Compare both copies of a VM in lockstep: memory page by page, disks block by block.

    The guest stands still while its memory is digested on both hosts, for a time that is measured and said first;
    the disks are compared while it runs. A replica that differs is replaced by a fresh one. NAME may be left out
    where exactly one VM is protected. Exit code 1 where anything differs.
    """
    from vdc.cli.errors import ReportedError
    from vdc.cli.render import print_values, values_of
    from vdc.cli.session import call

    result = call(lambda api: _verify(api, name, dry_run=dry_run, is_quiet=output in ("json", "yaml")))
    if output in ("json", "yaml"):
        print_values(values_of(result), output)
    else:
        print(_text(result))
    if result.is_same is False:
        raise ReportedError(1)


async def _verify(api: ApiClient, name: str | None, *, dry_run: bool, is_quiet: bool) -> VerifyResult:
    from vdc.cli.commands.promote import only_protected

    if name is None:
        name = only_protected((await api.list_endophytes()).items)
    estimate = await api.verify_endophyte(name, dry_run=True)
    if dry_run:
        return estimate
    if not is_quiet:
        click.echo(
            f"{name}: {clean(estimate.sentence)}; comparing {estimate.primary} and {estimate.secondary}",
            err=True,
        )
    return await api.verify_endophyte(name)


def _text(result: VerifyResult) -> str:
    if result.is_same is None:
        return f"endophyte/{result.name}: {clean(result.sentence)}"
    word = "the same" if result.is_same else "DIFFERENT"
    lines = [
        f"endophyte/{result.name}: {result.primary} and {result.secondary} are {word} (epoch {result.epoch})",
        f"  {clean(result.sentence)}",
    ]
    lines += [
        f"  memory {clean(block.block)}: {block.differing_pages} of {block.pages} pages differ"
        for block in result.memory
    ]
    for disk in result.disks:
        where = ", ".join(f"{offset:#x}" for offset in disk.differences)
        lines.append(f"  disk {disk.disk}: {f'differs at {where}' if where else 'no block differs'}")
    return "\n".join(lines)
