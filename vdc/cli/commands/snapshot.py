"""`vdc snapshot`: disks and memory of a VM as they were at one moment, and VMs that are made of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcGroup, output_option, to_name, wait_options

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.api.snapshots import RestoreRequest, SnapshotView
    from vdc.cli.text import Column


@click.group(
    cls=VdcGroup,
    example="vdc snapshot create web before-upgrade\nvdc snapshot ls web\n"
    "vdc snapshot restore web before-upgrade --as web2",
)
def snapshot() -> None:
    """Take, list, restore and remove snapshots of disks."""


@snapshot.command(
    "create",
    example="vdc snapshot create web\nvdc snapshot create web before-upgrade --quiesce\n"
    "vdc pause web && vdc snapshot create web as-it-is --memory",
)
@click.argument("name", callback=to_name)
@click.argument("snapshot_name", metavar="[SNAPSHOT]", required=False, callback=to_name)
@click.option(
    "--quiesce", is_flag=True, help="Freeze the guest's file systems for the moment, by its guest agent."
)
@click.option(
    "--memory", is_flag=True, help="Keep the memory too, of a paused VM: restored, it goes on there."
)
@output_option(table=False)
def create(*, name: str, snapshot_name: str | None, quiesce: bool, memory: bool, output: str | None) -> None:
    """Copy all disks of a VM as they are at one moment, while it runs, in lockstep too.

    Without --memory a VM that is made of a snapshot boots as after a power cut, which --quiesce makes gentler.
    """
    from vdc.api.settling import once_settled
    from vdc.api.snapshots import SnapshotRequest
    from vdc.cli.progress import StatusLine
    from vdc.cli.session import call
    from vdc.model.units import format_size

    request = SnapshotRequest(name=snapshot_name, quiesce=quiesce, memory=memory)
    with StatusLine() as line:
        line.show(f"copying the disks {'and the memory ' if memory else ''}of {name}")
        made = call(lambda api: once_settled(lambda: api.snapshots.create(name, request), line.show))
    if output is not None:
        _print(made, output)
        return
    print(f"snapshot/{name}/{made.name} taken on {made.host} ({format_size(made.size_bytes)})")


@snapshot.command("ls", example="vdc snapshot ls\nvdc snapshot ls web -o json")
@click.argument("name", required=False, callback=to_name)
@output_option("name")
def list_snapshots(name: str | None, output: str) -> None:
    """List snapshots, of one VM or of all; also of VMs that are gone."""
    from vdc.cli.render import print_values, values_of
    from vdc.cli.session import call
    from vdc.cli.text import Table

    found = call(lambda api: api.snapshots.list(name))
    if output in ("json", "yaml"):
        print_values(values_of(found), output)
    elif output == "name":
        for one in found.items:
            print(f"snapshot/{one.endophyte}/{one.name}")
    elif found.items:
        print(Table(_columns(), wide=output == "wide").render(found.items, sys.stdout))
    else:
        print("there are no snapshots", file=sys.stderr)


@snapshot.command("describe", example="vdc snapshot describe web before-upgrade")
@click.argument("name", callback=to_name)
@click.argument("snapshot_name", metavar="SNAPSHOT", callback=to_name)
@output_option(table=False)
def describe(name: str, snapshot_name: str, output: str | None) -> None:
    """Everything about one snapshot, its VM's manifest included (without secrets)."""
    from vdc.cli.session import call

    _print(call(lambda api: api.snapshots.get(name, snapshot_name)), output or "yaml")


@snapshot.command("rm", example="vdc snapshot rm web before-upgrade")
@click.argument("name", callback=to_name)
@click.argument("snapshot_names", metavar="SNAPSHOT...", nargs=-1, required=True)
def remove(name: str, snapshot_names: tuple[str, ...]) -> None:
    """Remove snapshots; VMs that were made of them keep what they need."""
    from vdc.cli.session import call

    async def work(api: ApiClient) -> None:
        for one in snapshot_names:
            await api.snapshots.remove(name, one)
            print(f"snapshot/{name}/{one} removed", flush=True)

    call(work)


@snapshot.command(
    "restore",
    example="vdc snapshot restore web before-upgrade --as web2 --wait\nvdc snapshot restore web monday --yes",
)
@click.argument("name", callback=to_name)
@click.argument("snapshot_name", metavar="SNAPSHOT", callback=to_name)
@click.option("--as", "as_name", metavar="NAME", callback=to_name, help="Make a new VM of it, of this name.")
@click.option("--yes", is_flag=True, help="Do not ask before the VM's present disks are given up.")
@click.option(
    "--no-memory", is_flag=True, help="Boot from the disks, though the snapshot has the memory too."
)
@wait_options("the VM runs")
def restore(
    *,
    name: str,
    snapshot_name: str,
    as_name: str | None,
    yes: bool,
    no_memory: bool,
    wait: bool,
    timeout: float,
) -> None:
    """Make a new VM of a snapshot (--as), or let the VM itself begin anew from it.

    In place the VM is stopped, and its present disks are gone for good; name, addresses and MACs stay, and to its
    guest the machine is another one (its UUID changes). It runs afterwards if it ran before. A new VM has what the
    snapshot's VM had, with addresses of its own.

    Of a snapshot with memory the VM itself goes on where it was. A new one cannot, as it has other addresses: it needs
    --no-memory.
    """
    from vdc.api.snapshots import RestoreRequest
    from vdc.cli.session import call

    wait_s = timeout if wait else None
    if as_name is not None:
        wanted = RestoreRequest(as_name=as_name, memory=not no_memory)
        call(lambda api: _restore_as(api, name, snapshot_name, wanted, wait_s))
        return
    if not yes:
        _ask(name, snapshot_name)
    wanted = RestoreRequest(memory=not no_memory)
    call(lambda api: _restore_in_place(api, name, snapshot_name, wanted, timeout, is_waited_for=wait))


def _ask(name: str, snapshot_name: str) -> None:
    from vdc.cli.errors import UsageFault
    from vdc.model.errors import Problem

    if not sys.stdin.isatty():
        raise UsageFault(
            Problem(
                code="confirm-missing",
                message=f"the present disks of {name} would be given up, and there is no terminal to ask",
                hint=f"vdc snapshot restore {name} {snapshot_name} --yes, or --as NAME",
            )
        )
    click.confirm(
        f"Stop {name} and give up its present disks for those of {snapshot_name}?", abort=True, err=True
    )


async def _restore_as(
    api: ApiClient, name: str, snapshot: str, wanted: RestoreRequest, wait_s: float | None
) -> None:
    as_name = wanted.as_name or ""
    await api.snapshots.restore(name, snapshot, wanted)
    print(f"endophyte/{as_name} created from snapshot/{name}/{snapshot}", flush=True)
    if wait_s is not None:
        await _wait_up(api, as_name, wait_s)


async def _restore_in_place(
    api: ApiClient,
    name: str,
    snapshot: str,
    wanted: RestoreRequest,
    timeout_s: float,
    *,
    is_waited_for: bool,
) -> None:
    from vdc.cli.progress import StatusLine
    from vdc.cli.waiting import STOPPED, Goal, wait_for
    from vdc.model.endophyte import Phase, RunState

    # Nothing is stopped for one that does not exist, or whose memory does not fit.
    await api.snapshots.restore(name, snapshot, wanted.with_(dry_run=True))
    before = await api.get_endophyte(name)
    was_off = before.status.phase is Phase.STOPPED
    with StatusLine() as line:
        if not was_off:
            await api.run_endophyte(name, RunState.STOPPED)
            await wait_for(api, name, STOPPED, timeout_s, line)
        await api.snapshots.restore(name, snapshot, wanted.with_(run=not was_off))
        again = Goal("begun anew", lambda view: view.metadata.uid != before.metadata.uid, lambda _: False)
        await wait_for(api, name, again, timeout_s, line)
    print(f"endophyte/{name} restored from snapshot/{name}/{snapshot}", flush=True)
    if is_waited_for and not was_off:
        await _wait_up(api, name, timeout_s)


async def _wait_up(api: ApiClient, name: str, wait_s: float) -> None:
    from vdc.cli.progress import StatusLine
    from vdc.cli.text import clean
    from vdc.cli.waiting import goal_of, wait_for
    from vdc.model.manifest import EndophyteSpec

    goal = goal_of(EndophyteSpec.model_validate((await api.get_endophyte(name)).spec))
    with StatusLine() as line:
        view = await wait_for(api, name, goal, wait_s, line)
    print(f"endophyte/{name} is {goal.words}: {clean(view.status.sentence)}")


def _print(one: SnapshotView, output: str) -> None:
    from vdc.cli.render import print_values, values_of

    print_values(values_of(one), output)


def _columns() -> list[Column[SnapshotView]]:
    from datetime import UTC, datetime

    from vdc.cli.text import Column, age
    from vdc.model.units import format_size

    return [
        Column("ENDOPHYTE", lambda s: s.endophyte),
        Column("NAME", lambda s: s.name),
        Column("STATE", lambda s: s.state.value),
        Column("QUIESCED", lambda s: "yes" if s.is_quiesced else "no"),
        Column("DISKS", lambda s: len(s.disks)),
        Column("MEMORY", lambda s: "yes" if s.memory else "no"),
        Column("SIZE", lambda s: format_size(s.size_bytes)),
        Column("AGE", lambda s: age(s.created_at, datetime.now(UTC))),
        Column("HOST", lambda s: s.host, wide=True),
        Column("EPOCH", lambda s: s.epoch, wide=True),
        Column("IMAGES", lambda s: [disk.image for disk in s.disks], wide=True),
    ]
