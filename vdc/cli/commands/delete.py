"""`vdc delete`: an object, or what manifests describe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcCommand

if TYPE_CHECKING:
    from vdc.api.client import ApiClient


@click.command(
    cls=VdcCommand, example="vdc delete endophyte web\nvdc delete -f desktop.yaml\nvdc delete image me/old:1"
)
@click.argument("kind", required=False)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "-f", "--filename", "sources", multiple=True, metavar="FILE|DIR|-", help="Delete what is described there."
)
@click.option("--ignore-not-found", is_flag=True, help="What does not exist counts as deleted.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when it is gone.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
)
def delete(
    *,
    kind: str | None,
    names: tuple[str, ...],
    sources: tuple[str, ...],
    ignore_not_found: bool,
    wait: bool,
    timeout: float,
) -> None:
    """Delete an object with everything that belongs to it, disks included."""
    from vdc.cli.errors import ReportedError
    from vdc.cli.session import call

    targets = _targets(kind, names, sources)
    failures = call(
        lambda api: _delete_all(
            api, targets, ignore_absent=ignore_not_found, wait_s=timeout if wait else None
        )
    )
    if failures:
        raise ReportedError(1)


def _targets(kind: str | None, names: tuple[str, ...], sources: tuple[str, ...]) -> list[tuple[str, str]]:
    """Pairs of kind and name; a usage error where the command line does not say what to delete."""
    from vdc.cli.kinds import ENDOPHYTE, IMAGE, KINDS, find_kind
    from vdc.cli.manifests import read_manifests

    ctx = click.get_current_context()
    if bool(sources) == bool(kind):
        raise click.UsageError("say what to delete: KIND NAME, or -f FILE", ctx)
    if sources:
        loaded = read_manifests(sources)
        for item in loaded:
            if item.error:
                raise item.error
        return [("endophyte", item.name) for item in loaded]
    found = find_kind(kind or "", KINDS)
    if found not in (ENDOPHYTE, IMAGE):
        raise click.UsageError(f"{found.plural} cannot be deleted", ctx)
    if not names:
        raise click.UsageError("NAME is missing", ctx)
    return [(found.singular, name) for name in names]


async def _delete_all(
    api: ApiClient, targets: list[tuple[str, str]], *, ignore_absent: bool, wait_s: float | None
) -> int:
    from vdc.cli.errors import print_problem
    from vdc.model.errors import NotFoundError, VdcError

    failures = 0
    for kind, name in targets:
        try:
            if kind == "image":
                await remove_image(api, name)
            else:
                await _delete_endophyte(api, name, wait_s)
        except VdcError as error:
            if ignore_absent and isinstance(error, NotFoundError):
                continue
            failures += 1
            print_problem(error.problem)
        else:
            print(f"{kind}/{name} deleted", flush=True)
    return failures


async def remove_image(api: ApiClient, name: str) -> None:
    """Remove a name of an image; `NotFoundError`."""
    from vdc.images.reference import is_digest, normalise_reference

    await api.remove_image(name if is_digest(name) else normalise_reference(name))


async def _delete_endophyte(api: ApiClient, name: str, wait_s: float | None) -> None:
    from vdc.cli.waiting import wait_gone
    from vdc.model.errors import NotFoundError

    try:
        uid = (await api.get_endophyte(name)).metadata.uid
    except NotFoundError:
        await api.delete_endophyte(name)  # a host may have a copy that the cluster does not know
        return
    await api.delete_endophyte(name)
    if wait_s is not None:
        await wait_gone(api, name, uid, wait_s)
