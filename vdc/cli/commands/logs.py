"""`vdc logs`: what a container's program, or a guest on its serial console, wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcCommand

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.api.models import LogText
    from vdc.cli.output import Printer

_POLL_S = 0.5
_AFTER_FAILOVER = 500  # lines of the other host's log, among which are those that were not printed yet


@click.command(
    cls=VdcCommand,
    example="vdc logs web\nvdc logs web --follow --tail 20\nvdc logs db --timestamps --stream stderr",
)
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on and print what comes.")
@click.option(
    "--tail", type=click.IntRange(0, 100_000), default=1000, show_default=True, help="The last so many lines."
)
@click.option(
    "--timestamps", is_flag=True, help="When each line was written, by the guest's clock (containers)."
)
@click.option(
    "--stream", type=click.Choice(["stdout", "stderr"]), help="What went to one of the two (containers)."
)
@click.option("--console", is_flag=True, help="A container's serial console, not what its program wrote.")
def logs(*, name: str, follow: bool, tail: int, timestamps: bool, stream: str | None, console: bool) -> None:
    """Print what a container, or a serial console, wrote.

    Of a container it is what its program wrote, of every other VM what came to the serial console, as the primary's
    host recorded it; both copies of a protected VM record it. What a container's program writes to standard error is
    printed to standard error.
    """
    from vdc.cli.output import Printer
    from vdc.cli.session import call

    printer = Printer(timestamps=timestamps, stream=stream)
    call(lambda api: _print_log(api, name, tail, printer, follow=follow, console=console))


async def _print_log(
    api: ApiClient, name: str, tail: int, printer: Printer, *, follow: bool, console: bool
) -> None:
    import asyncio

    from vdc.model.errors import UnavailableError

    last = await api.endophyte_log(name, lines=tail, console=console)
    if tail:
        printer.write(last, is_last=not follow)
    while follow:
        await asyncio.sleep(_POLL_S)
        try:
            last = await _print_new(api, name, last, printer, console=console)
        except UnavailableError:
            continue


async def _print_new(api: ApiClient, name: str, last: LogText, printer: Printer, *, console: bool) -> LogText:
    """What was added since. After a failover it goes on with the other host's log."""
    new = await api.endophyte_log(name, offset=last.end_offset, console=console)
    if new.host != last.host:
        new = await api.endophyte_log(name, lines=_AFTER_FAILOVER, console=console)
        printer.resume(new)
        return new
    if new.end_offset > last.end_offset:
        printer.write(new)
    elif new.end_offset < last.end_offset:  # begun anew with the guest
        new = await api.endophyte_log(name, offset=0, console=console)
        printer.write(new)
    return new
