"""`vdc protect` and `vdc unprotect`: the second copy."""

from __future__ import annotations

import click

from vdc.cli.base import VdcCommand, wait_options
from vdc.cli.text import clean


@click.command(cls=VdcCommand, example="vdc protect web --wait")
@click.argument("name")
@wait_options("it is in lockstep")
def protect(name: str, wait: bool, timeout: float) -> None:
    """Run a second copy in lockstep, so that the VM survives the loss of its host."""
    _switch(name, enabled=True, wait_s=timeout if wait else None)


@click.command(cls=VdcCommand, example="vdc unprotect web")
@click.argument("name")
@wait_options("the second copy is gone")
def unprotect(name: str, wait: bool, timeout: float) -> None:
    """Give up the second copy; the VM goes on alone."""
    _switch(name, enabled=False, wait_s=timeout if wait else None)


def _switch(name: str, *, enabled: bool, wait_s: float | None) -> None:
    from vdc.api.client import ApiClient
    from vdc.cli.progress import StatusLine
    from vdc.cli.session import call
    from vdc.cli.waiting import LOCKSTEP, UNPROTECTED, wait_for

    async def work(api: ApiClient) -> None:
        goal = LOCKSTEP if enabled else UNPROTECTED
        await api.protect_endophyte(name, enabled=enabled)
        if wait_s is None:
            print(f"endophyte/{name} {'protecting' if enabled else 'unprotecting'}")
            return
        with StatusLine() as line:
            view = await wait_for(api, name, goal, wait_s, line)
        print(f"endophyte/{name} is {goal.words}: {clean(view.status.sentence)}")

    call(work)
