"""`vdc migrate`: let a VM run on another host, while it runs."""

from __future__ import annotations

import click

from vdc.cli.base import VdcCommand, wait_options


@click.command(cls=VdcCommand, example="vdc migrate web --to h2 --wait\nvdc migrate web --cancel")
@click.argument("name")
@click.option("--to", metavar="HOST", help="The host that shall run it.")
@click.option("--cancel", is_flag=True, help="Take an earlier wish back; the VM stays where it runs.")
@wait_options("it runs there")
def migrate(name: str, to: str | None, cancel: bool, wait: bool, timeout: float) -> None:
    """Move a running VM to another host; its memory, its disks and its connections go with it.

    Disks and memory are copied while the guest runs, then the copy takes over. A protected VM keeps a replica:
    it is moved to HOST first and promoted there.
    """
    from vdc.api.client import ApiClient
    from vdc.cli.progress import StatusLine
    from vdc.cli.session import call
    from vdc.cli.waiting import moved_to, wait_for

    if (to is None) != cancel:
        raise click.UsageError("say where to (--to HOST), or --cancel", click.get_current_context())

    async def work(api: ApiClient) -> None:
        view = await api.move_endophyte(name, to)
        if to is None:
            print(f"endophyte/{name} stays on {view.status.primary.host if view.status.primary else '-'}")
            return
        if not wait:
            print(f"endophyte/{name} moving to {to}")
            return
        with StatusLine() as line:
            view = await wait_for(api, name, moved_to(to), timeout, line)
        print(f"endophyte/{name} runs on {to} (epoch {view.status.epoch})")

    call(work)
