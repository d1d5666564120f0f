"""`vdc cp`: files into a container, or out of it."""

from __future__ import annotations

import click

from vdc.cli.base import VdcCommand, to_size


@click.command(
    cls=VdcCommand,
    example="vdc cp db:/etc/redis/redis.conf .\nvdc cp dump.sql db:/tmp/\nvdc cp db:/data ./data-of-db",
)
@click.argument("source")
@click.argument("target")
@click.option(
    "--max-size", callback=to_size, default="64GiB", show_default=True, metavar="SIZE",
    help="Copy no more than this out of a container.",
)  # fmt: skip
def cp(source: str, target: str, max_size: int) -> None:
    """Copy files into a container, or out of it.

    NAME:PATH names a file or folder in a container, anything else a local one. Into an existing folder it is copied
    under its own name, else it gets the new name. What is copied out is yours, and links that lead out of it are left
    out; what is copied in is root's.
    """
    import sys

    from vdc.cli.copying import There, copy_in, copy_out, left_out_text, parse_place
    from vdc.cli.errors import ReportedError
    from vdc.cli.session import call

    here, there = parse_place(source), parse_place(target)
    if isinstance(here, There) and not isinstance(there, There):
        done = call(lambda api: copy_out(api, here, there, most_bytes=max_size))
        if text := left_out_text(done):
            print(text, file=sys.stderr)
            if not done.files:
                raise ReportedError(1)
    elif isinstance(there, There) and not isinstance(here, There):
        call(lambda api: copy_in(api, here, there))
    else:
        raise click.UsageError(
            "one of both is NAME:PATH, the other one a local path", click.get_current_context()
        )
