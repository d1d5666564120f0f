"""`vdc doctor`: what is missing, here and on the hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcCommand, output_option

if TYPE_CHECKING:
    from vdc.api.models import Check, DoctorReport


@click.command(cls=VdcCommand, example="vdc doctor\nvdc doctor -o json\nvdc doctor --canary")
@click.option(
    "--canary",
    is_flag=True,
    help="Also prove the hosts: a small VM runs in lockstep on pair after pair, is compared and promoted, and goes.",
)
@click.option("--image", metavar="REF", default="mycelium/mini", show_default=True, help="Of the canary.")
@output_option()
def doctor(canary: bool, image: str, output: str) -> None:
    """Find out what is missing, on this machine and on every host; exit code 1 where something is."""
    from vdc.cli.doctor import examine_hosts, examine_machine
    from vdc.cli.errors import ReportedError
    from vdc.cli.session import chosen_context, run
    from vdc.model.errors import VdcError

    reports = [examine_machine()]
    try:
        name, context = chosen_context()
    except VdcError as error:
        reports.append(_no_cluster(error))
    else:
        reports += run(examine_hosts(name, context.endpoints))
        if canary:
            reports.append(_canary(image))
    _print_reports(reports, output)
    if any(check.level == "error" for report in reports for check in report.checks):
        raise ReportedError(1)


def _canary(image: str) -> DoctorReport:
    from vdc.api.models import DoctorReport
    from vdc.cli.canary import Canary
    from vdc.cli.progress import StepLines
    from vdc.cli.session import call

    return DoctorReport(host="-", checks=tuple(call(lambda api: Canary(api, image, StepLines()).run())))


def _no_cluster(error: Exception) -> DoctorReport:
    from vdc.api.models import Check, DoctorReport

    check = Check(name="context", level="warning", sentence=str(error), hint="vdc lab up")
    return DoctorReport(host="-", checks=(check,))


def _print_reports(reports: list[DoctorReport], output: str) -> None:
    from vdc.cli.render import print_values, values_of
    from vdc.cli.tables import check_columns
    from vdc.cli.text import Table

    if output in ("json", "yaml"):
        print_values({"items": values_of(reports)}, output)
        return
    import sys

    rows = [(report.host, check) for report in reports for check in report.checks]
    print(Table(check_columns(), wide=output == "wide").render(rows, sys.stdout))
    hints = dict.fromkeys(_hint(check) for _, check in rows if check.hint and check.level != "ok")
    for hint in hints:
        print(f"hint: {hint}", file=sys.stderr)


def _hint(check: Check) -> str:
    return f"{check.name}: {check.hint}"
