"""`vdc console`: the serial console of a guest, in this terminal."""

from __future__ import annotations

import click

from vdc.cli.base import VdcCommand


@click.command(cls=VdcCommand, example="vdc console web")
@click.argument("name")
def console(name: str) -> None:
    """Use the serial console of a VM; Ctrl-] leaves.

    After a failover the console goes on at the new primary. Without a terminal, standard input is sent to
    the guest, and the console is left when it ends.
    """
    from vdc.cli.session import call
    from vdc.cli.terminal import run_console

    call(lambda api: run_console(api, name))
