"""`vdc drill`: kill a primary on purpose and report what it was like."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcCommand, output_option, to_name
from vdc.cli.text import clean

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.api.models import DrillResult


@click.command(cls=VdcCommand, example="vdc drill\nvdc drill web --fault hang\nvdc drill web --yes -o json")
@click.argument("name", required=False, callback=to_name)
@click.option(
    "--fault", type=click.Choice(["kill", "hang"]), default="kill", show_default=True,
    help="What happens to the primary's QEMU: it is killed, or stands still.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--timeout", type=click.FloatRange(min=1, max=3600), default=300.0, show_default=True, metavar="SECONDS",
    help="How long to wait until it is protected again.",
)  # fmt: skip
@output_option()
def drill(name: str | None, fault: str, yes: bool, timeout: float, output: str) -> None:
    """Kill the primary of a VM in lockstep on purpose, and measure: gap, lost packets, time to new protection.

    Another host asks the guest by ICMP echo all the time. NAME may be left out where exactly one VM is protected.
    Exit code 1 where it is not protected again in time.
    """
    from vdc.cli.errors import ReportedError
    from vdc.cli.render import print_values, values_of
    from vdc.cli.session import call

    result = call(lambda api: _drill(api, name, fault, timeout, is_sure=yes))
    if output in ("json", "yaml"):
        print_values(values_of(result), output)
    else:
        print(_text(result))
    if result.protected_after_s is None:
        raise ReportedError(1)


async def _drill(
    api: ApiClient, name: str | None, fault: str, timeout_s: float, *, is_sure: bool
) -> DrillResult:
    from vdc.api.models import DrillFault
    from vdc.cli.commands.promote import only_protected
    from vdc.cli.progress import StatusLine

    if name is None:
        name = only_protected((await api.list_endophytes()).items)
    status = (await api.get_endophyte(name)).status
    host = status.primary.host if status.primary else "?"
    if not is_sure:
        _ask(name, host, fault)
    with StatusLine() as line:
        line.show(f"{name}: the primary on {host} fails now; measuring")
        return await api.drill_endophyte(name, fault=DrillFault(fault), timeout_s=timeout_s)


def _ask(name: str, host: str, fault: str) -> None:
    """A usage error where nobody can be asked; an abort where the answer is no."""
    if not sys.stdin.isatty():
        raise click.UsageError("a drill asks first, and there is no terminal; say --yes")
    words = "killed" if fault == "kill" else "stopped for good"
    click.confirm(f"The primary of {name} on {host} will be {words}. Go on?", abort=True, err=True)


def _text(result: DrillResult) -> str:
    def figure(value: float | None, unit: str) -> str:
        return "unknown" if value is None else f"{value:.0f} {unit}"

    return "\n".join(
        [
            f"endophyte/{result.name}: {clean(result.sentence)} (epoch {result.epoch})",
            f"  longest time without an answer   {figure(result.gap_ms, 'ms')}",
            f"  echoes lost                      {result.lost_probes} of {result.probes}",
            f"  arbitration                      {figure(result.arbitrated_ms, 'ms')}",
            f"  promotion                        {figure(result.promoted_ms, 'ms')}",
            f"  protected again after            {figure(result.protected_after_s, 's')}",
        ]
    )
