"""The `hostagent` program: `hostagent run --config FILE`, `hostagent check --config FILE`."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

import click
import structlog

from hostagent.agent import joining, recovery
from hostagent.agent.agent import Agent
from hostagent.agent.witness import WitnessAgent
from hostagent.config import AgentConfig, load_config
from hostagent.drivers.host.permissions import require_unexposed
from vdc import __version__
from vdc.model.errors import VdcError
from vdc.protection.timing import consequences

_CONFIG_OPTION = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=Path("/etc/vdc/agent.yaml"),
    show_default=True,
)


_WITNESS_OPTION = click.option("--witness", is_flag=True, help="Vote and lead, but run no guests.")


@click.group(
    invoke_without_command=True,
    help="The Virtual Distributed Computer's host agent.\n\n"
    "Example: hostagent run\n\nA witness: hostagent --witness --config /etc/vdc/agent.yaml",
)
@click.version_option(__version__, prog_name="hostagent")
@_WITNESS_OPTION
@_CONFIG_OPTION
@click.pass_context
def main(ctx: click.Context, witness: bool, config_file: Path) -> None:
    """Entry point. `--witness` alone means `run --witness`."""
    ctx.obj = witness
    if ctx.invoked_subcommand is None:
        if not witness:
            click.echo(ctx.get_help())
            ctx.exit(2)
        _run(config_file, witness=True)


@main.command(help="Run the agent in the foreground.\n\nExample: hostagent run --config /etc/vdc/agent.yaml")
@_CONFIG_OPTION
@_WITNESS_OPTION
@click.pass_context
def run(ctx: click.Context, config_file: Path, witness: bool) -> None:
    """Run until SIGTERM or SIGINT; guests go on."""
    _run(config_file, witness=witness or bool(ctx.obj))


def _run(config_file: Path, *, witness: bool) -> None:
    config = _load(config_file, witness=witness)
    if os.geteuid() != 0:
        _fail("the agent needs root: it makes network interfaces", "run it by systemd, or with sudo")
    _check_files(config_file, config.state_dir)
    _log_to_stderr(config.log_level)
    try:
        asyncio.run(_until_signalled(config))
    except* VdcError as group:
        error = group.exceptions[0]
        assert isinstance(error, VdcError)
        _fail(f"{error} ({error.code})", error.problem.hint)


@main.command(help="Validate a configuration file.\n\nExample: hostagent check --config agent.yaml")
@_CONFIG_OPTION
def check(config_file: Path) -> None:
    """Say whether the file could be run with."""
    config = _load(config_file)
    click.echo(f"{config_file} is valid: host {config.host}")
    for name, took_ms in consequences(config.durations):
        click.echo(f"  {name:<56} {took_ms:>8,.0f} ms")


@main.command(
    help="Become a member of a cluster by a token of `vdc cluster token create`. Asks the host that made it, checks "
    "that it is of the cluster that the token names, and keeps the certificate that it gets.\n\n"
    "Example: hostagent join --token vdcjoin1.ab.cd.ef.gh\n\n"
    "Without the token in the list of processes: hostagent join --token - <token.txt"
)
@click.option(
    "--token", "given", required=True, metavar="TOKEN", help="The join token; - reads it from standard input."
)
@_CONFIG_OPTION
@_WITNESS_OPTION
def join(given: str, config_file: Path, witness: bool) -> None:
    """Get this host's certificate."""
    config = _load(config_file, witness=witness)
    text = sys.stdin.readline() if given == "-" else given
    try:
        identity = asyncio.run(joining.join(config, text))
    except VdcError as error:
        _fail(f"{error} ({error.code})", error.problem.hint)
    click.echo(
        f"{identity.name} is a {identity.role} of cluster {identity.cluster}; start it: systemctl start vdc-hostagent"
    )


@main.command(
    help="Take part in etcd again as a new member: after this host's etcd data was lost for good, after it was "
    "left out of a newer lineage, or for the first time, in the place of a lost one.\n\n"
    "Example: hostagent rejoin --config /etc/vdc/agent.yaml\n\n"
    "In the place of a lost host: hostagent rejoin --replace node2"
)
@_CONFIG_OPTION
@click.option("--replace", default="", metavar="HOST", help="The member that is lost for good and goes.")
def rejoin(config_file: Path, replace: str) -> None:
    """Replace the member; the agent's next start joins."""
    config = _load(config_file)
    try:
        sentence = asyncio.run(recovery.rejoin(config, replace))
    except VdcError as error:
        _fail(f"{error} ({error.code})", error.problem.hint)
    click.echo(sentence)


@main.command(
    "go-on-alone",
    help="Let this host's etcd member go on without the others, after a majority was lost for good and this host "
    "was restarted since. Every other member's host must be off and stay off. Begins a new lineage. While the "
    "agent still shows the VMs use `vdc promote replica NAME --force` instead.\n\n"
    "Example: hostagent go-on-alone --confirm node1",
)
@_CONFIG_OPTION
@click.option("--confirm", required=True, metavar="HOST", help="The name of this host, typed once more.")
def go_on_alone(config_file: Path, confirm: str) -> None:
    """The human override for a host whose agent has seen no records."""
    config = _load(config_file)
    if confirm != config.host:
        raise click.UsageError(f"{confirm[:60]!r} is not this host's name: nothing was done")
    try:
        sentence = asyncio.run(recovery.go_on_alone(config, getpass.getuser()))
    except VdcError as error:
        _fail(f"{error} ({error.code})", error.problem.hint)
    click.echo(sentence)


def _load(path: Path, *, witness: bool = False) -> AgentConfig:
    try:
        return load_config(path, witness=witness)
    except VdcError as error:
        _fail(f"{error} ({error.code})", error.problem.hint)


def _check_files(*paths: Path) -> None:
    try:
        for path in paths:
            require_unexposed(path.absolute())
    except VdcError as error:
        _fail(f"{error} ({error.code})", error.problem.hint)


def _fail(message: str, hint: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    sys.exit(1)


async def _until_signalled(config: AgentConfig) -> None:
    kind = WitnessAgent if config.witness else Agent
    agent = asyncio.create_task(kind(config, on_ready=_tell_service_manager).run(), name="agent")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.cancel)
    try:
        await agent
    except asyncio.CancelledError:
        structlog.get_logger().info("stopped; guests go on")


def _tell_service_manager() -> None:
    """sd_notify(3), where systemd started us."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", "\0" + path[1:] if path.startswith("@") else path)


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
