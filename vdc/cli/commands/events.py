"""`vdc events`: what happened, and what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcCommand, output_option

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.cli.text import Table
    from vdc.model.event import Event


@click.command(cls=VdcCommand, example="vdc events\nvdc events web --watch")
@click.argument("name", required=False)
@click.option("-w", "--watch", is_flag=True, help="Go on and print every event as it happens.")
@click.option("--limit", type=click.IntRange(1, 2_000), help="The last so many only.")
@output_option()
def events(name: str | None, watch: bool, limit: int | None, output: str) -> None:
    """What happened, oldest first; times are UTC."""
    from vdc.cli.session import call

    call(lambda api: show_events(api, name, output, watch=watch, limit=limit))


async def show_events(
    api: ApiClient, name: str | None, output: str, *, watch: bool = False, limit: int | None = None
) -> None:
    """Print the events of one object or of all."""
    from vdc.cli.kinds import EVENT
    from vdc.cli.render import print_records
    from vdc.cli.text import Table

    past = (await api.list_events(name, limit=limit)).items
    if output == "name":
        output = "table"
    if not watch:
        print_records(past, EVENT.columns(), output, empty="there are no events")
        return
    table: Table[Event] = Table(EVENT.columns(), wide=output == "wide")
    if output in ("table", "wide"):
        table.fit(past)
        print(table.header())
    for event in past:
        _print_one(event, table, output)
    await _follow(api, name, {event.id for event in past}, table, output)


async def _follow(
    api: ApiClient, name: str | None, known: set[str], table: Table[Event], output: str
) -> None:
    import asyncio

    from vdc.model.errors import UnavailableError

    while True:
        try:
            async for event in api.watch_events(name):
                if event.id not in known:
                    known.add(event.id)
                    _print_one(event, table, output)
        except UnavailableError:
            await asyncio.sleep(1.0)


def _print_one(event: Event, table: Table[Event], output: str) -> None:
    import sys

    from vdc.cli.render import print_values, values_of

    if output in ("json", "yaml"):
        print_values(values_of(event), output, compact=True)
    else:
        print(table.row(event, sys.stdout))
    sys.stdout.flush()
