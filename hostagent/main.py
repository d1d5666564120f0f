"""The `hostagent` program: `hostagent run --config FILE`, `hostagent check --config FILE`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

import click
import structlog

from hostagent.agent.agent import Agent
from hostagent.config import AgentConfig, load_config
from hostagent.drivers.etcd import EmbeddedMember
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


@click.group(help="The Virtual Distributed Computer's host agent.")
@click.version_option(__version__, prog_name="hostagent")
def main() -> None:
    """Entry point."""


@main.command(help="Run the agent in the foreground.\n\nExample: hostagent run --config /etc/vdc/agent.yaml")
@_CONFIG_OPTION
def run(config_file: Path) -> None:
    """Run until SIGTERM or SIGINT; guests go on."""
    config = _load(config_file)
    if os.geteuid() != 0:
        _fail("the agent needs root: it makes network interfaces", "run it by systemd, or with sudo")
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
    help="Take part in etcd again as a new member, after this host's etcd data was lost for good.\n\n"
    "Example: hostagent rejoin --config /etc/vdc/agent.yaml"
)
@_CONFIG_OPTION
def rejoin(config_file: Path) -> None:
    """Replace the member; the agent's next start joins."""
    config = _load(config_file)
    if config.etcd.embedded is None:
        _fail("this host runs no etcd member of its own", "etcd.endpoints names another cluster's")
    member = EmbeddedMember(
        config.host, config.etcd.embedded, state_dir=config.state_dir, runtime=config.runtime
    )
    try:
        asyncio.run(member.rejoin())
    except VdcError as error:
        _fail(f"{error} ({error.code})", error.problem.hint)
    click.echo(f"{config.host} joins as a new etcd member when its agent starts")


def _load(path: Path) -> AgentConfig:
    try:
        return load_config(path)
    except VdcError as error:
        _fail(f"{error} ({error.code})", error.problem.hint)


def _fail(message: str, hint: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    sys.exit(1)


async def _until_signalled(config: AgentConfig) -> None:
    agent = asyncio.create_task(Agent(config, on_ready=_tell_service_manager).run(), name="agent")
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
