"""`vdc node`: hosts, and their maintenance."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcGroup, output_option, to_reason
from vdc.cli.text import clean

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.cli.draining import DrainResult

DRAIN_S = 600.0


@click.group(cls=VdcGroup, example="vdc node ls\nvdc node drain h1 --reason 'new memory'\nvdc node resume h1")
def node() -> None:
    """Look at hosts, empty them for maintenance, use them again."""


@node.command("ls", example="vdc node ls -o wide")
@output_option("name")
def list_nodes(output: str) -> None:
    """List hosts; the same as vdc get nodes."""
    from vdc.cli.commands.get import show
    from vdc.cli.kinds import NODE
    from vdc.cli.session import call

    call(lambda api: show(api, NODE, None, output))


@node.command("describe", example="vdc node describe h1")
@click.argument("name")
@output_option(table=False)
def describe_node(name: str, output: str | None) -> None:
    """Everything about one host."""
    from vdc.cli.commands.describe import describe_object

    describe_object("node", name, output)


@node.command("drain", example="vdc node drain h1 --reason 'new memory'\nvdc node drain h1 --dry-run")
@click.argument("host")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when the host is empty.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=DRAIN_S, show_default=True,
    metavar="SECONDS", help="How long --wait waits; the host stays drained afterwards.",
)  # fmt: skip
@click.option("--reason", default="", metavar="TEXT", callback=to_reason, help="Why; shown to others.")
@click.option("--leave-stopped", is_flag=True, help="Stopped VMs may stay, with their disks.")
@click.option("--dry-run", is_flag=True, help="Print what would be done.")
@output_option()
def drain(
    *, host: str, wait: bool, timeout: float, reason: str, leave_stopped: bool, dry_run: bool, output: str
) -> None:
    """Move everything off a host, without stopping a guest, and place nothing there until it is resumed.

    Protected VMs go on where their replica is, unprotected ones move while they run, replicas are made anew on
    other hosts. Ctrl-C ends the waiting alone: vdc node resume takes the wish back.
    """
    from vdc.api.models import DrainRequest
    from vdc.cli.draining import print_plan, print_result
    from vdc.cli.errors import ReportedError
    from vdc.cli.render import print_values, values_of
    from vdc.cli.session import call

    request = DrainRequest(reason=reason, leave_stopped=leave_stopped, dry_run=dry_run)
    result, alive = call(lambda api: _drain(api, host, request, timeout if wait else None))
    if output in ("json", "yaml"):
        print_values(values_of(result), output)
    elif dry_run or not wait:
        print_plan(result)
        if not dry_run:
            print(f"node/{host} draining")
    else:
        print_result(result, alive=alive)
    if wait and alive and not dry_run and not result.is_done:
        print(
            f"error: {len(result.left)} left on {host} after {timeout:g} s (drain-timeout)", file=sys.stderr
        )
        print(f"hint: it stays drained and goes on; vdc node resume {host} takes it back", file=sys.stderr)
        raise ReportedError(1)


async def _drain(
    api: ApiClient, host: str, request: object, wait_s: float | None
) -> tuple[DrainResult, bool]:
    from vdc.api.models import DrainRequest
    from vdc.cli.draining import Drain

    assert isinstance(request, DrainRequest)
    drained = Drain(api, host)
    report = await drained.begin(request)
    if not request.dry_run and wait_s is not None and report.alive:
        try:
            await drained.follow(wait_s)
        except asyncio.CancelledError:
            print(f"\n{host} stays drained; vdc node resume {host} takes it back", file=sys.stderr)
            raise
    return drained.result(dry_run=request.dry_run), report.alive


@node.command("resume", example="vdc node resume h1")
@click.argument("host")
def resume(host: str) -> None:
    """Use a drained host again; spares and replicas come back by themselves."""
    from vdc.cli.session import call

    print(f"node/{host}: {clean(call(lambda api: api.resume_node(host)).sentence)}")


@node.command("remove", example="vdc node remove h3\nvdc node remove h3 --force --confirm h3")
@click.argument("host")
@click.option("--force", is_flag=True, help="Give up the VMs whose only copy is there, and replicas.")
@click.option(
    "--confirm", metavar="HOST", help="With --force: the host's name once more, instead of being asked."
)
def remove(host: str, force: bool, confirm: str | None) -> None:
    """Forget a host that is gone for good.

    With --force you declare that the host is dead and will never run its VMs again: those without another copy
    are lost, and can be deleted and made anew. Its replicas are given up where the primary's host is dead too.
    """
    from vdc.cli.session import call

    if force and confirm is None and sys.stdin.isatty():
        confirm = click.prompt(f"VMs whose only copy is on {host} are lost. Type the host's name", err=True)
    if force and confirm != host:
        raise click.UsageError(
            f"--force needs the host's name once more: --confirm {host}", click.get_current_context()
        )
    print(f"node/{host}: {clean(call(lambda api: api.remove_node(host, force=force)).sentence)}")
