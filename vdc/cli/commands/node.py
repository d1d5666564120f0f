"""`vdc node`: hosts."""

from __future__ import annotations

import click

from vdc.cli.base import VdcGroup, output_option


@click.group(cls=VdcGroup, example="vdc node ls\nvdc node describe h1")
def node() -> None:
    """Look at hosts."""


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
