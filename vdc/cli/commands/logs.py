"""`vdc logs`: what a guest wrote on its serial console."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcCommand

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.api.models import LogText

_POLL_S = 0.5


@click.command(cls=VdcCommand, example="vdc logs web\nvdc logs web --follow --tail 20")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on and print what comes.")
@click.option(
    "--tail", type=click.IntRange(0, 100_000), default=1000, show_default=True, help="The last so many lines."
)
def logs(name: str, follow: bool, tail: int) -> None:
    """Print what a VM wrote on its serial console, as the primary's host recorded it."""
    from vdc.cli.session import call

    call(lambda api: _print_log(api, name, tail, follow=follow))


async def _print_log(api: ApiClient, name: str, tail: int, *, follow: bool) -> None:
    import asyncio

    from vdc.model.errors import UnavailableError

    last = await api.endophyte_log(name, lines=tail)
    if tail:
        _write(last.text, ends_line=not follow)
    while follow:
        await asyncio.sleep(_POLL_S)
        try:
            last = await _print_new(api, name, last)
        except UnavailableError:
            continue


async def _print_new(api: ApiClient, name: str, last: LogText) -> LogText:
    """What was added since; after a failover another host's log goes on from its present end."""
    new = await api.endophyte_log(name, offset=last.end_offset)
    if new.host != last.host:
        return await api.endophyte_log(name, lines=0)
    if new.end_offset > last.end_offset:
        _write(new.text)
    elif new.end_offset < last.end_offset:  # begun anew with the guest
        new = await api.endophyte_log(name, offset=0)
        _write(new.text)
    return new


def _write(text: str, *, ends_line: bool = False) -> None:
    import sys

    from vdc.cli.text import harmless

    text = harmless(text) if sys.stdout.isatty() else text
    sys.stdout.write(text + ("\n" if ends_line and text and not text.endswith("\n") else ""))
    sys.stdout.flush()
