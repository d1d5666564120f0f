"""`vdc lab`: several hosts on this one machine, and faults for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vdc.cli.base import VdcGroup, output_option, to_name, to_size

if TYPE_CHECKING:
    from vdc.cli.text import Column

DEFAULT_NAME = "default"


def _lab_name(function: Any) -> Any:
    return click.option(
        "--name", "-n", default=DEFAULT_NAME, show_default=True, callback=to_name, help="Which lab."
    )(function)


@click.group(cls=VdcGroup, example="vdc lab up\nvdc lab fault power-off h1\nvdc lab down")
def lab() -> None:
    """Several hosts on this machine, and faults for them."""


@lab.command(example="vdc lab up\nvdc lab up --hosts 5 --name five\nvdc lab up --hosts 2 --witness")
@click.option("--hosts", type=click.IntRange(1, 8), help="How many hosts; 3, or as many as the lab has.")
@click.option("--memory", callback=to_size, metavar="SIZE", help="What each host may give to guests.")
@click.option("--witness", is_flag=True, help="One more that votes and runs no guests.")
@_lab_name
def up(hosts: int | None, memory: int | None, witness: bool, name: str) -> None:
    """Make the hosts, start their agents, and choose the lab's context."""
    from vdc.cli.progress import StepLines
    from vdc.cli.session import run
    from vdc.lab import api

    status = run(api.up(name, hosts, StepLines(), memory, witness=witness))
    hosts = sum(host.role == "host" for host in status.hosts)
    third = " and a witness" if hosts < len(status.hosts) else ""
    print(f"lab {name} is {status.state.value}: {hosts} hosts{third}")


@lab.command(example="vdc lab down\nvdc lab down --all")
@click.option("--all", "every", is_flag=True, help="Every lab of this machine.")
@_lab_name
def down(every: bool, name: str) -> None:
    """Take everything away that belongs to the lab."""
    from vdc.cli.progress import StepLines
    from vdc.cli.session import run
    from vdc.lab import api

    names = api.list_labs() if every else (name,)
    for one in names:
        run(api.down(one, StepLines()))
        print(f"lab {one} is down")
    if not names:
        print("there is no lab")


@lab.command(example="vdc lab status -o json")
@_lab_name
@output_option()
def status(name: str, output: str) -> None:
    """What there is of the lab, and which faults its hosts are under."""
    import sys

    from vdc.cli.render import print_values, values_of
    from vdc.cli.session import run
    from vdc.cli.text import COLOURS, Table, paint
    from vdc.lab import api

    found = run(api.status(name))
    if output in ("json", "yaml"):
        print_values(values_of(found), output)
        return
    state = paint(found.state.value, COLOURS.get(found.state.value), sys.stdout)
    client = f", client namespace {found.client.namespace}" if found.client else ""
    print(f"lab {found.name} is {state}{client}")
    if found.hosts:
        print(Table(_host_columns(), wide=output == "wide").render(found.hosts, sys.stdout))
    for problem in found.problems:
        print(f"problem: {problem}")


def _host_columns() -> list[Column[Any]]:
    from vdc.cli.text import Column

    return [
        Column("NAME", lambda h: h.name),
        Column("ROLE", lambda h: h.role),
        Column("STATE", lambda h: h.state.value),
        Column("AGENT", lambda h: h.agent_pid),
        Column("ETCD", lambda h: h.etcd_pid),
        Column("MANAGEMENT", lambda h: h.management_address),
        Column("REPLICATION", lambda h: h.replication_address),
        Column("FAULTS", lambda h: h.faults),
        Column("NAMESPACE", lambda h: h.namespace, wide=True),
        Column("OVERLAY", lambda h: h.overlay_address, wide=True),
        Column("API", lambda h: h.api_socket, wide=True),
    ]


@lab.command(
    "exec",
    example="vdc lab exec client -- ping -c 1 10.77.0.10\nvdc lab exec h1 -- ip route",
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
)
@_lab_name
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, host: str, command: tuple[str, ...]) -> None:
    """Run a command on a host of the lab, or in 'client'; its exit code is the command's."""
    import os

    from vdc.lab import api

    argv = api.exec_argv(name, host, list(command))
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - a list, no shell, and the user's own command
    except OSError as error:
        raise click.ClickException(f"{argv[0]}: {error.strerror}") from error


@lab.group(cls=VdcGroup, example="vdc lab fault power-off h1\nvdc lab fault heal")
def fault() -> None:
    """Do something bad to a host of the lab, or heal it."""


@fault.command("power-off", example="vdc lab fault power-off h1")
@click.argument("host")
@_lab_name
def power_off(host: str, name: str) -> None:
    """Cut the power of a host.

    Everything on it is killed and its links are down in one moment: no FIN, no RST.
    """
    _strike(name, "power-off", host)


@fault.command(
    example="vdc lab fault partition h1 --network replication\nvdc lab fault partition h2 --direction in"
)
@click.argument("host")
@click.option(
    "--network", type=click.Choice(["management", "replication", "all"]), default="all", show_default=True
)
@click.option("--direction", type=click.Choice(["in", "out", "both"]), default="both", show_default=True)
@_lab_name
def partition(host: str, network: str, direction: str, name: str) -> None:
    """Cut a host off from its networks.

    The direction is as the host sees it: nothing in, nothing out, or both.
    """
    _strike(name, "partition", host, network=network, direction=direction)


@fault.command(example="vdc lab fault pause h1")
@click.argument("host")
@_lab_name
def pause(host: str, name: str) -> None:
    """Stop every process of the host (SIGSTOP)."""
    _strike(name, "pause", host)


@fault.command(example="vdc lab fault slow h1 --rate 1mbit")
@click.argument("host")
@click.option("--rate", required=True, metavar="RATE", help="For example 1mbit.")
@click.option(
    "--network", type=click.Choice(["management", "replication", "all"]), default="all", show_default=True
)
@_lab_name
def slow(host: str, rate: str, network: str, name: str) -> None:
    """Limit the host's links."""
    _strike(name, "slow", host, network=network, rate=rate)


@fault.command(example="vdc lab fault flap h1\nvdc lab fault flap h1 --times 30 --network all")
@click.argument("host")
@click.option(
    "--network",
    type=click.Choice(["management", "replication", "all"]),
    default="replication",
    show_default=True,
)
@click.option("--direction", type=click.Choice(["in", "out", "both"]), default="both", show_default=True)
@click.option("--times", type=click.IntRange(1, 600), default=10, show_default=True)
@_lab_name
def flap(host: str, network: str, direction: str, times: int, name: str) -> None:
    """Cut a host off and mend it again, once a second; returns when it is over."""
    _strike(name, "flap", host, network=network, direction=direction, times=times)


@fault.command(example="vdc lab fault heal\nvdc lab fault heal h1")
@click.argument("host", required=False)
@_lab_name
def heal(host: str | None, name: str) -> None:
    """Undo the faults of a host, or of all.

    A host without power is started again.
    """
    _strike(name, "heal", host)


def _strike(name: str, kind: str, host: str | None, **details: Any) -> None:
    from vdc.cli.progress import StepLines
    from vdc.cli.session import run
    from vdc.lab import api

    status = run(api.fault(name, kind, host, progress=StepLines(), **details))
    for one in status.hosts:
        if host in (None, one.name):
            faults = f" ({', '.join(one.faults)})" if one.faults else ""
            print(f"{one.name} is {one.state.value}{faults}")
