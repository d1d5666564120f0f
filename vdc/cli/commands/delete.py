"""`vdc delete`: an object, or what manifests describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from vdc.cli.base import VdcCommand

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.model.manifest_file import Loaded


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

    targets, code = _described(sources) if sources and not kind else (_targets(kind, names, sources), 0)
    if targets:
        wait_s = timeout if wait else None
        failures = call(lambda api: _delete_all(api, targets, ignore_absent=ignore_not_found, wait_s=wait_s))
        code = 1 if failures else code
    if code:
        raise ReportedError(code)


class Target(NamedTuple):
    """What is to be deleted; `namespace`: of the Kubernetes workload that describes it."""

    kind: str
    name: str
    namespace: str | None = None


def _described(sources: tuple[str, ...]) -> tuple[list[Target], int]:
    """What manifests describe, and the exit code of what is none: it does not keep the others.

    A workload that cannot become an Endophyte any more is enough to delete the one that it was.
    """
    from vdc.cli.commands.apply import tell
    from vdc.cli.manifests import read_manifests

    targets: dict[Target, None] = {}
    code = 0
    for item in read_manifests(sources):
        if item.name and (item.manifest or item.origin):
            targets[Target("endophyte", item.name, _namespace(item))] = None
        else:
            code = max(code, tell(item))
    return list(targets), code


def _namespace(item: Loaded) -> str | None:
    if not item.origin:
        return None
    from vdc.kubernetes.routing import namespace_of

    return namespace_of(item)


def _targets(kind: str | None, names: tuple[str, ...], sources: tuple[str, ...]) -> list[Target]:
    """What a command line names; a usage error where it does not say what to delete."""
    from vdc.cli.kinds import ENDOPHYTE, IMAGE, KINDS, find_kind

    ctx = click.get_current_context()
    if bool(sources) == bool(kind):
        raise click.UsageError("say what to delete: KIND NAME, or -f FILE", ctx)
    found = find_kind(kind or "", KINDS)
    if found not in (ENDOPHYTE, IMAGE):
        raise click.UsageError(f"{found.plural} cannot be deleted", ctx)
    if not names:
        raise click.UsageError("NAME is missing", ctx)
    return [Target(found.singular, name) for name in names]


async def _delete_all(
    api: ApiClient, targets: list[Target], *, ignore_absent: bool, wait_s: float | None
) -> int:
    from vdc.cli.errors import print_problem
    from vdc.model.errors import NotFoundError, VdcError

    failures = 0
    for target in targets:
        try:
            if target.kind == "image":
                await remove_image(api, target.name)
            else:
                await _delete_endophyte(api, target, wait_s)
        except VdcError as error:
            if ignore_absent and isinstance(error, NotFoundError):
                continue
            failures += 1
            print_problem(error.problem)
        else:
            print(f"{target.kind}/{target.name} deleted", flush=True)
    return failures


async def remove_image(api: ApiClient, name: str) -> None:
    """Remove a name of an image; `NotFoundError`."""
    from vdc.images.reference import is_digest, normalise_reference

    await api.remove_image(name if is_digest(name) else normalise_reference(name))


async def _delete_endophyte(api: ApiClient, target: Target, wait_s: float | None) -> None:
    from vdc.cli.waiting import wait_gone
    from vdc.model.errors import ConflictError, NotFoundError
    from vdc.model.manifest import NAMESPACE

    name = target.name
    try:
        metadata = (await api.get_endophyte(name)).metadata
    except NotFoundError:
        await api.delete_endophyte(name)  # a host may have a copy that the cluster does not know
        return
    space = metadata.annotations.get(NAMESPACE, "default")
    if target.namespace not in (None, space):
        raise ConflictError(
            f"endophyte/{name} is that of namespace {space}, not of {target.namespace}",
            code="name-taken",
            hint=f"if it is meant: vdc delete endophyte {name}",
        )
    await api.delete_endophyte(name)
    if wait_s is not None:
        await wait_gone(api, name, metadata.uid, wait_s)
