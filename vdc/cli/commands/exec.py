"""`vdc exec`: a command in a guest."""

from __future__ import annotations

import click

from vdc.cli.base import VdcCommand


@click.command(
    "exec",
    cls=VdcCommand,
    example="vdc exec db -- redis-cli ping\nvdc exec -it db -- sh\nvdc exec -i db -- psql < dump.sql",
)
@click.option("-i", "--stdin", "has_input", is_flag=True, help="Send standard input.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal; with -i in raw mode.")
@click.option(
    "-u", "--user", default="", metavar="USER[:GROUP]", help="As whom; the program's user if left out."
)
@click.option(
    "-e", "--env", "env", multiple=True, metavar="NAME=VALUE", help="Beside the program's variables."
)
@click.option("-w", "--workdir", default="", metavar="PATH", help="Where; the program's folder if left out.")
@click.argument("name")
@click.argument("command", nargs=-1, required=True)
def exec_(
    *,
    name: str,
    command: tuple[str, ...],
    has_input: bool,
    tty: bool,
    user: str,
    env: tuple[str, ...],
    workdir: str,
) -> int:
    """Run a command in a container, beside its program, or by the guest agent of a disk image.

    Its exit code becomes this one's. A guest agent takes all the input first and gives the output last; -t, -u and -w
    are for containers.

    126 and 127: it cannot be run, there is none of that name; 128+N: signal N ended it. 255: it is not known how it
    ended, because the container moved to another host, or its guest does not answer. With -it all keys are the
    command's; Ctrl-] three times in a row leaves, and ends it.
    """
    import os
    import sys

    from vdc.api.execution import ExecOptions
    from vdc.cli.execution import run_command, terminal_size
    from vdc.cli.session import call

    context = click.get_current_context()
    if bad := [entry for entry in env if not entry.partition("=")[0] or "=" not in entry]:
        raise click.BadParameter(f"{bad[0].partition('=')[0]!r} has no value: NAME=VALUE", context)
    if tty and has_input and not os.isatty(sys.stdin.fileno()):
        raise click.UsageError("--tty needs a terminal at standard input; leave -t or -i out", context)
    if workdir and not workdir.startswith("/"):
        raise click.BadParameter("--workdir is an absolute path", context)
    rows, columns = terminal_size()
    options = ExecOptions(env=env, working_dir=workdir, tty=tty, rows=rows, columns=columns)
    return call(lambda api: run_command(api, name, command, options, user=user, has_input=has_input))
