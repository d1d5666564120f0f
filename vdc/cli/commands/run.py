"""`vdc start`, `stop`, `restart`, `pause`: what the guest shall do."""

from __future__ import annotations

import click

from vdc.cli.base import VdcCommand, wait_options
from vdc.cli.text import clean


@click.command(cls=VdcCommand, example="vdc start web --wait")
@click.argument("name")
@wait_options("the VM runs")
def start(name: str, wait: bool, timeout: float) -> None:
    """Start a VM, or let a paused one go on."""
    from vdc.cli.waiting import RUNNING
    from vdc.model.endophyte import RunState

    _run(name, RunState.RUNNING, RUNNING, "started", wait_s=timeout if wait else None)


@click.command(cls=VdcCommand, example="vdc stop web --wait\nvdc stop web --force")
@click.argument("name")
@click.option("--force", is_flag=True, help="Cut its power instead of asking the guest.")
@wait_options("the VM is off")
def stop(name: str, force: bool, wait: bool, timeout: float) -> None:
    """Shut a VM down; its disks and its address stay."""
    from vdc.cli.waiting import STOPPED
    from vdc.model.endophyte import RunState

    _run(name, RunState.STOPPED, STOPPED, "stopping", wait_s=timeout if wait else None, force=force)


@click.command(cls=VdcCommand, example="vdc pause web\nvdc start web")
@click.argument("name")
@wait_options("the VM is frozen")
def pause(name: str, wait: bool, timeout: float) -> None:
    """Freeze a VM in memory, until vdc start."""
    from vdc.cli.waiting import PAUSED
    from vdc.model.endophyte import RunState

    _run(name, RunState.PAUSED, PAUSED, "pausing", wait_s=timeout if wait else None)


@click.command(cls=VdcCommand, example="vdc restart web\nvdc restart web --force")
@click.argument("name")
@click.option("--force", is_flag=True, help="Cut its power instead of asking the guest.")
def restart(name: str, force: bool) -> None:
    """Restart the guest of a VM; its address stays, what it had in memory is gone."""
    from vdc.cli.session import call

    call(lambda api: api.restart_endophyte(name, force=force))
    print(f"endophyte/{name} restarting")


def _run(
    name: str, state: object, goal: object, word: str, *, wait_s: float | None, force: bool = False
) -> None:
    from vdc.api.client import ApiClient
    from vdc.cli.progress import StatusLine
    from vdc.cli.session import call
    from vdc.cli.waiting import Goal, wait_for
    from vdc.model.endophyte import RunState

    assert isinstance(state, RunState) and isinstance(goal, Goal)

    async def work(api: ApiClient) -> None:
        await api.run_endophyte(name, state, force=force)
        if wait_s is None:
            print(f"endophyte/{name} {word}")
            return
        with StatusLine() as line:
            view = await wait_for(api, name, goal, wait_s, line)
        print(f"endophyte/{name} is {goal.words}: {clean(view.status.sentence)}")

    call(work)
