"""`vdc get`: list objects, print one, watch them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vdc.cli.base import VdcCommand, output_option

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.cli.kinds import Kind


@click.command(
    cls=VdcCommand,
    example="vdc get endophytes\nvdc get endophyte web -o json\nvdc get nodes -o wide\nvdc get ep -w",
)
@click.argument("kind", metavar="KIND")
@click.argument("name", required=False)
@click.option("-w", "--watch", is_flag=True, help="Go on and print every change.")
@output_option("name")
def get(kind: str, name: str | None, watch: bool, output: str) -> None:
    """List objects, or print one.

    KIND: endophytes (ep), nodes (no), images (img), networks (net), events (ev) or templates, also in
    the singular.
    """
    from vdc.cli.kinds import EVENT, find_kind
    from vdc.cli.session import call, run

    found = find_kind(kind)
    if found is EVENT:
        from vdc.cli.commands.events import show_events

        call(lambda api: show_events(api, name, output, watch=watch))
    elif not found.needs_cluster:
        if watch:
            raise click.UsageError(f"{found.plural} do not change", click.get_current_context())
        from vdc.api.client import ApiClient

        run(show(ApiClient(()), found, name, output))
    elif watch:
        call(lambda api: follow(api, found, name, output))
    else:
        call(lambda api: show(api, found, name, output))


async def show(api: ApiClient, kind: Kind, name: str | None, output: str) -> None:
    """Print one record or all of a kind."""
    import sys

    from vdc.cli.kinds import NODE
    from vdc.cli.render import print_record, print_records

    if name is not None:
        record = await kind.get(api, name)
        if output == "name":
            print(f"{kind.singular}/{kind.names_of(record)[0]}")
        else:
            print_record(record, kind.columns(), output)
        return
    records = await kind.list(api)
    if output == "name":
        for record in records:
            print(f"{kind.singular}/{kind.names_of(record)[0]}")
    else:
        print_records(records, kind.columns(), output, empty=f"there are no {kind.plural}")
        if kind is NODE and output in ("table", "wide"):
            for note in (await api.list_nodes()).notes:
                print(f"note: {note}", file=sys.stderr)


async def follow(api: ApiClient, kind: Kind, name: str | None, output: str) -> None:
    """Print what there is, then each record whenever it differs from what was printed; never ends."""
    import sys

    from vdc.cli.render import print_values, values_of
    from vdc.cli.text import Table

    table: Table[Any] = Table(kind.columns(), wide=output == "wide")
    printed: dict[str, Any] = {}
    records = [await kind.get(api, name)] if name else list(await kind.list(api))
    is_table = output in ("table", "wide")
    if is_table:
        table.fit(records)
        print(table.header(), flush=True)
    async for record in _changes(api, kind, name, records):
        key = kind.names_of(record)[0]
        shown = table.state(record) if is_table else values_of(record)
        if printed.get(key) == shown:
            continue
        printed[key] = shown
        if is_table:
            print(table.row(record, sys.stdout), flush=True)
        elif output == "name":
            print(f"{kind.singular}/{key}", flush=True)
        else:
            print_values(shown, output, compact=True)
            sys.stdout.flush()


async def _changes(api: ApiClient, kind: Kind, name: str | None, records: list[Any]) -> Any:
    """The records, then every later state of them: from the stream where there is one, else by asking."""
    import asyncio

    from vdc.cli.kinds import ENDOPHYTE
    from vdc.model.errors import NotFoundError, UnavailableError

    for record in records:
        yield record
    while kind is ENDOPHYTE:
        try:
            async for view in api.watch_endophytes(name):
                yield view
        except UnavailableError:
            await asyncio.sleep(1.0)
    while True:
        await asyncio.sleep(1.0)
        try:
            records = [await kind.get(api, name)] if name else list(await kind.list(api))
        except (NotFoundError, UnavailableError):
            continue
        for record in records:
            yield record
