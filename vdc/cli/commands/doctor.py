"""`vdc doctor`: what is missing, here and on the hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcCommand, output_option
from vdc.cli.text import clean

if TYPE_CHECKING:
    from vdc.api.models import Check, DoctorReport


def _complete_code(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from vdc.model.explanations import EXPLANATIONS

    return [code for code in (*EXPLANATIONS, "all") if code.startswith(incomplete)]


@click.command(
    cls=VdcCommand,
    example="vdc doctor\nvdc doctor -o json\nvdc doctor --canary\nvdc doctor --explain isolated\n"
    "vdc doctor --sbom runtime",
)
@click.option(
    "--canary",
    is_flag=True,
    help="Also prove the hosts: a small VM runs in lockstep on pair after pair, is compared and promoted, and goes.",
)
@click.option("--image", metavar="REF", default="mycelium/mini", show_default=True, help="Of the canary.")
@click.option(
    "--explain",
    metavar="CODE",
    shell_complete=_complete_code,
    help="Only say what an event of `vdc events` means and what to do; `all` lists every one.",
)
@click.option(
    "--sbom",
    is_flag=False,
    flag_value="all",
    type=click.Choice(["all", "python", "runtime"]),
    help="Only print what this installation consists of, as CycloneDX JSON; `all` without a value.",
)
@output_option()
def doctor(canary: bool, image: str, explain: str | None, sbom: str | None, output: str) -> None:
    """Find out what is missing, on this machine and on every host; exit code 1 where something is."""
    from vdc.cli.doctor import examine_hosts, examine_machine
    from vdc.cli.errors import ReportedError
    from vdc.cli.session import chosen_context, run
    from vdc.model.errors import VdcError

    if explain is not None:
        _explain(explain, output)
        return
    if sbom is not None:
        _print_sbom(sbom)
        return
    reports = [examine_machine()]
    try:
        name, context = chosen_context()
    except VdcError as error:
        reports.append(_no_cluster(error))
    else:
        reports += run(examine_hosts(name, context))
        if canary:
            reports.append(_canary(image))
    _print_reports(reports, output)
    if any(check.level == "error" for report in reports for check in report.checks):
        raise ReportedError(1)


def _print_sbom(part: str) -> None:
    import sys
    from pathlib import Path

    import vdc
    from vdc.cli.doctor import runtime_root
    from vdc.cli.sbom import sbom

    locks = Path(vdc.__file__).parents[1] / "requirements"  # of a checkout; an installed wheel has none
    sys.stdout.write(sbom(part, runtime_root=runtime_root(), requirements=locks if locks.is_dir() else None))


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
        print(f"hint: {clean(hint)}", file=sys.stderr)


def _hint(check: Check) -> str:
    return f"{check.name}: {check.hint}"


def _explain(code: str, output: str) -> None:
    """Print one explanation, or all; a usage error that names the nearest code."""
    import difflib

    from vdc.cli.render import print_values
    from vdc.model.explanations import EXPLANATIONS

    if code != "all" and code not in EXPLANATIONS:
        close = difflib.get_close_matches(code, EXPLANATIONS, n=1)
        advice = f"; did you mean {close[0]}?" if close else "; `--explain all` lists them"
        raise click.UsageError(f"there is no event {code[:40]!r}{advice}", click.get_current_context())
    told = {code: EXPLANATIONS[code]} if code != "all" else EXPLANATIONS
    if output in ("json", "yaml"):
        items = [
            {"code": name, "severity": one.severity, "meaning": one.meaning, "advice": one.advice}
            for name, one in told.items()
        ]
        print_values({"items": items} if code == "all" else items[0], output)
        return
    for name, one in told.items():
        print(f"{name} ({one.severity}): {one.meaning}")
        print(f"  to do: {one.advice or 'nothing'}")
