"""`vdc promote replica`: make the secondary the primary, by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcGroup, output_option

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.api.models import EndophyteView, PromoteResult


@click.group(cls=VdcGroup, example="vdc promote replica\nvdc promote replica web --to h2")
def promote() -> None:
    """Make the secondary the primary."""


@promote.command(
    "replica",
    example="vdc promote replica\nvdc promote replica web --to h2\nvdc promote replica web --force\n"
    "vdc promote replica web --force --confirm web",
)
@click.argument("name", required=False)
@click.option(
    "--to", metavar="HOST", help="The host that shall become the primary; it must be the secondary's."
)
@click.option(
    "--force", is_flag=True, help="The human override, where the cluster cannot decide; NAME has to be typed."
)
@click.option(
    "--confirm",
    "--yes-i-know",
    "confirm",
    metavar="NAME",
    help="For scripts: the VM's name, instead of typing it.",
)
@output_option()
def replica(name: str | None, to: str | None, force: bool, confirm: str | None, output: str) -> None:
    """Make the secondary of a VM its primary; open connections stay.

    NAME may be left out where exactly one VM is protected. With --force you assert that the other host is off
    and stays off: for a cluster that has lost its majority for good, or a primary that cannot be asked. It
    says first what may be lost. Exit code 2 where the name is not confirmed.
    """
    from vdc.cli.render import print_values, values_of
    from vdc.cli.session import call, chosen_context, run

    if force and name is None:
        raise click.UsageError("--force needs the NAME of the VM", click.get_current_context())
    if confirm is not None and not force:
        raise click.UsageError("--confirm goes with --force", click.get_current_context())
    if force and name is not None:
        from vdc.cli.forcing import forced

        result = run(forced(chosen_context()[1], name, to, confirm))
    else:
        result = call(lambda api: _promote(api, name, to))
    if output in ("json", "yaml"):
        print_values(values_of(result), output)
    else:
        print(
            f"endophyte/{result.name}: primary is {result.primary}, was {result.previous} "
            f"(epoch {result.epoch}, {result.total_ms:.0f} ms{_lineage(result.lineage)})"
        )


def _lineage(number: int) -> str:
    return f", lineage {number}" if number else ""


async def _promote(api: ApiClient, name: str | None, to: str | None) -> PromoteResult:
    if name is None:
        name = only_protected((await api.list_endophytes()).items)
    return await api.promote_endophyte(name, to=to)


def only_protected(views: tuple[EndophyteView, ...]) -> str:
    """The one Endophyte that has a secondary; `NotFoundError`, or a usage error that lists the candidates."""
    from vdc.cli.errors import UsageFault
    from vdc.model.errors import NotFoundError, Problem

    candidates = [view for view in views if view.status.secondary is not None]
    if not candidates:
        raise NotFoundError(
            "no VM has a secondary that could be promoted",
            hint="vdc get endophytes",
            code="nothing-protected",
        )
    if len(candidates) > 1:
        listed = ", ".join(f"{v.metadata.name} ({v.status.protection.value})" for v in candidates)
        raise UsageFault(
            Problem(
                code="name-needed",
                message=f"several VMs have a secondary: {listed}",
                hint=f"say which: vdc promote replica {candidates[0].metadata.name}",
            )
        )
    return candidates[0].metadata.name
