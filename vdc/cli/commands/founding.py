"""`vdc cluster init`: found a cluster on its first host."""

from __future__ import annotations

from pathlib import Path

import click

from vdc.cli.base import VdcCommand, output_option, to_name

_DEFAULT = Path("/etc/vdc/agent.yaml")


@click.command(
    "init",
    cls=VdcCommand,
    example="vdc cluster init\nvdc cluster init --config /etc/vdc/agent.yaml --admin carol",
)
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), default=_DEFAULT, show_default=True,
    metavar="FILE", help="The configuration of this host's agent.",
)  # fmt: skip
@click.option(
    "--admin",
    default="admin",
    show_default=True,
    callback=to_name,
    metavar="NAME",
    help="The first administrator.",
)
@output_option()
def init(config_file: Path, admin: str, output: str) -> None:
    """Found a cluster on its first host: the authority, the host's certificate, the first administrator.

    Run it once, on the first host, before its agent starts. The administrator's context is written to your file
    and becomes the current one. The other hosts join by vdc cluster token create and hostagent join.
    """
    from datetime import UTC, datetime

    from vdc.api.context import load_contexts, put_context
    from vdc.cli.agentfile import read_agent
    from vdc.cli.render import print_values
    from vdc.security import cluster
    from vdc.security.folder import pki_folder

    agent = read_agent(config_file)
    load_contexts()  # a file that cannot be used is to be known before there is an administrator's key for it
    folder = pki_folder(agent.state_dir)
    founded = cluster.init(
        folder, host=agent.host, addresses=agent.addresses, now=datetime.now(UTC), admin=admin
    )
    context = f"{admin}@{founded.cluster}"
    put_context(context, [f"https://{agent.management.address}:{agent.api_port}"], credentials=founded.admin)
    if output in ("json", "yaml"):
        fingerprint = founded.authority.fingerprint
        values = {"cluster": founded.cluster, "host": agent.host, "folder": str(folder), "context": context}
        print_values({**values, "authority": fingerprint}, output)
        return
    print(
        f"cluster/{founded.cluster} founded: {agent.host} is its first host, {admin} its first administrator"
    )
    print(f"context/{context} is used now")
    print("start the agent; for each other host: vdc cluster token create, then hostagent join there")
