"""`vdc describe`: everything about one object, for people."""

from __future__ import annotations

import click

from vdc.cli.base import VdcCommand, output_option


@click.command(cls=VdcCommand, example="vdc describe endophyte web\nvdc describe node h1")
@click.argument("kind")
@click.argument("name")
@output_option(table=False)
def describe(kind: str, name: str, output: str | None) -> None:
    """Everything about one object, for people.

    KIND: endophyte (ep), node (no), image (img), network (net) or template.
    """
    describe_object(kind, name, output)


def describe_object(kind: str, name: str, output: str | None) -> None:
    """Find the object and print it."""
    from vdc.api.client import ApiClient
    from vdc.cli.describing import describe_endophyte, describe_record
    from vdc.cli.kinds import ENDOPHYTE, EVENT, KINDS, find_kind
    from vdc.cli.session import call, run

    found = find_kind(kind, tuple(one for one in KINDS if one is not EVENT))
    if found is ENDOPHYTE:
        call(lambda api: describe_endophyte(api, name, output))
    elif found.needs_cluster:
        call(lambda api: describe_record(api, found, name, output))
    else:
        run(describe_record(ApiClient(()), found, name, output))
