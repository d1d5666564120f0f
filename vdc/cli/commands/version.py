"""`vdc version`: of this program and of the cluster."""

from __future__ import annotations

import click

from vdc.cli.base import VdcCommand, output_option

_DEADLINE_S = 2.0


@click.command(cls=VdcCommand, example="vdc version\nvdc version --client")
@click.option("--client", is_flag=True, help="Do not ask the cluster.")
@output_option(table=False)
def version(client: bool, output: str | None) -> None:
    """Versions of this program and, where one answers, of an agent."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        own = installed("vdc")
    except PackageNotFoundError:
        own = "unknown"
    agent = None if client else _agent_version()
    if output:
        from vdc.cli.render import print_values

        print_values({"client": own, "agent": agent}, output)
        return
    print(f"vdc    {own}")
    if not client:
        print(f"agent  {agent or 'none answers'}")


def _agent_version() -> str | None:
    import asyncio

    from vdc.api.client import ApiClient
    from vdc.cli.session import call
    from vdc.model.errors import VdcError

    async def ask(api: ApiClient) -> str:
        return (await asyncio.wait_for(api.cluster(), _DEADLINE_S)).version

    try:
        return call(ask)
    except (VdcError, TimeoutError):
        return None
