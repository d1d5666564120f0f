"""`vdc audit`: who did what, and whether the log of it is what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vdc.cli.base import VdcGroup, output_option

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from vdc.api.client import ApiClient
    from vdc.api.models import AuditVerdict
    from vdc.cli.text import Table
    from vdc.model.audit import AuditEntry

_POLL_S = 1.0
_MOST = 1_000  # entries that an agent gives at once


@click.group(cls=VdcGroup, example="vdc audit list --object web\nvdc audit verify")
def audit() -> None:
    """Who did what, from where, with which result."""


@audit.command(
    "list",
    example="vdc audit list\nvdc audit list --who alice --object web\nvdc audit list --since 1200 -o json\n"
    "vdc audit list -w",
)
@click.option("--who", metavar="NAME", help="Of this user, host or address only.")
@click.option("--object", "object_", metavar="NAME", help="About this object only.")
@click.option("--since", type=click.IntRange(1), metavar="SEQ", help="From this entry on.")
@click.option(
    "--limit", type=click.IntRange(1, _MOST), help="So many; without --since the newest.  [default: 100]"
)
@click.option("-w", "--watch", is_flag=True, help="Go on and print every entry as it is appended.")
@output_option()
def list_entries(
    *, who: str | None, object_: str | None, since: int | None, limit: int | None, watch: bool, output: str
) -> None:
    """The audit log, oldest first; times are UTC."""
    from vdc.cli.session import call

    query = {"who": who, "object_": object_}
    call(lambda api: _list(api, query, since, limit, output, watch=watch))


@audit.command(
    example="vdc audit export > audit.jsonl\nvdc audit export --since 1200 >> audit.jsonl",
)
@click.option("--since", type=click.IntRange(1), default=1, metavar="SEQ", help="From this entry on.")
def export(since: int) -> None:
    """Print the audit log as JSON lines, each exactly as it is stored.

    `vdc audit verify FILE` checks such a file, wherever it is kept.
    """
    from vdc.cli.session import call

    call(lambda api: _export(api, since))


@audit.command(example="vdc audit verify\nvdc audit verify audit.jsonl\nvdc audit verify -o json")
@click.argument("file", type=click.Path(allow_dash=True), required=False)
@output_option(table=False)
def verify(file: str | None, output: str | None) -> None:
    """Is the audit log what was written? Exit code 1 where it is not.

    Without FILE the cluster's: the whole chain, and the end of it that each host remembers. With FILE an export, for
    which no cluster is asked: its chain from the first entry to the last.
    """
    from vdc.cli.errors import ReportedError
    from vdc.cli.render import print_values, values_of
    from vdc.cli.session import call

    verdict = _verdict_on(file) if file is not None else call(lambda api: api.verify_audit())
    if output is not None:
        print_values(values_of(verdict), output)
    else:
        print("\n".join(verdict_text(verdict)))
    if not verdict.is_intact:
        raise ReportedError(1)


def verdict_text(verdict: AuditVerdict) -> list[str]:
    """The lines for people."""
    from vdc.cli.text import clean

    if not verdict.first:
        what = "the audit log is empty"
    else:
        what = f"entries {verdict.first} to {verdict.last}, the last with hash {verdict.hash[:16] or '?'}"
    lines = [f"{'intact' if verdict.is_intact else 'TAMPERED'}: {what}"]
    lines += [f"  {one.sentence}" for one in verdict.damage]
    if verdict.remembered:
        known = ", ".join(f"{one.host} {one.seq or '-'}" for one in verdict.remembered)
        lines.append(f"  remembered by the hosts: {known}")
    return [clean(line) if line[0] != " " else "  " + clean(line) for line in lines] + [
        f"note: {clean(note)}" for note in verdict.notes
    ]


def _verdict_on(file: str) -> AuditVerdict:
    from vdc.api.models import AuditVerdict
    from vdc.model.audit_chain import check_export

    try:
        with click.open_file(file, encoding="utf-8", errors="replace") as lines:
            check = check_export(line.rstrip("\n") for line in lines)
    except OSError as error:
        raise click.UsageError(f"cannot read {file}: {error.strerror}") from error
    notes = [] if check.first in (0, 1) else [f"the file begins with entry {check.first}"]
    if check.hidden:
        notes.append(f"{check.hidden} more places are damaged")
    return AuditVerdict(
        is_intact=not check.damage, first=check.first, last=check.last, hash=check.end_hash,
        damage=tuple(check.damage), notes=tuple(notes),
    )  # fmt: skip


async def _list(
    api: ApiClient,
    query: dict[str, Any],
    since: int | None,
    limit: int | None,
    output: str,
    *,
    watch: bool,
) -> None:
    from vdc.cli.render import print_values
    from vdc.cli.tables import audit_columns
    from vdc.cli.text import Table
    from vdc.model.audit import AuditEntry

    page = await api.list_audit(since=since, limit=limit, **query)
    entries = [AuditEntry.model_validate(values) for values in page.items]
    if output in ("json", "yaml") and not watch:
        print_values({"items": list(page.items)}, output)
        return
    if not entries and not watch:
        click.echo("there are no such entries", err=True)
        return
    table: Table[AuditEntry] = Table(audit_columns(), wide=output == "wide")
    if output in ("table", "wide"):
        table.fit(entries)
        print(table.header())
    _print(page.items, table, output)
    if watch:
        async for items in _following(api, page.next, query):
            _print(items, table, output)


def _print(items: Iterable[dict[str, Any]], table: Table[AuditEntry], output: str) -> None:
    import sys

    from vdc.cli.render import print_values
    from vdc.model.audit import AuditEntry

    for values in items:
        if output in ("json", "yaml"):
            print_values(values, output, compact=True)
        else:
            print(table.row(AuditEntry.model_validate(values), sys.stdout))
    sys.stdout.flush()


async def _following(
    api: ApiClient, since: int, query: dict[str, Any]
) -> AsyncIterator[tuple[dict[str, Any], ...]]:
    """What is appended from `since` on, for ever; survives agents that do not answer."""
    import asyncio

    from vdc.model.errors import UnavailableError

    while True:
        try:
            page = await api.list_audit(since=since, limit=_MOST, **query)
        except UnavailableError:
            await asyncio.sleep(_POLL_S)
            continue
        if page.items:
            yield page.items
        since = page.next
        if len(page.items) < _MOST:
            await asyncio.sleep(_POLL_S)


async def _export(api: ApiClient, since: int) -> None:
    from vdc.model.audit import canonical

    while True:
        page = await api.list_audit(since=since, limit=_MOST)
        for values in page.items:
            print(canonical(values))
        if len(page.items) < _MOST:
            return
        since = page.next
