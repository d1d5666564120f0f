"""`vdc apply`: create or change what manifests describe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from vdc.cli.base import VdcCommand, output_option, wait_options
from vdc.cli.text import clean

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.api.models import ApplyResult
    from vdc.model.manifest_file import Loaded


@click.command(
    cls=VdcCommand,
    example="vdc apply -f desktop.yaml --wait\nvdc apply -f manifests/ --dry-run\nvdc apply -f - <web.yaml",
)
@click.option(
    "-f",
    "--filename",
    "sources",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    help="Where the manifests are.",
)
@click.option("--dry-run", is_flag=True, help="Let the cluster check everything and change nothing.")
@wait_options("everything runs and, if asked for, is in lockstep")
@output_option("name")
def apply(sources: tuple[str, ...], dry_run: bool, wait: bool, timeout: float, output: str) -> None:
    """Create or change what manifests describe.

    Besides Endophytes these can be Kubernetes' Pods, Deployments and StatefulSets that are annotated with
    mycelium.network/service-type: endophyte, with what they refer to: each becomes an Endophyte that runs the same.

    One result per object; an object that fails does not hold up the others. Exit code 2 where all that
    failed are manifests that were refused before anything was sent, 1 where the cluster refused something.
    """
    from vdc.cli.errors import ReportedError
    from vdc.cli.manifests import read_manifests
    from vdc.cli.session import call

    loaded = mark_duplicates(read_manifests(sources))
    is_quiet = output in ("json", "yaml")
    if not any(item.manifest for item in loaded):
        raise ReportedError(max(tell(item, quiet=is_quiet) for item in loaded))
    codes, results = call(lambda api: _apply_all(api, loaded, dry_run=dry_run, quiet=is_quiet))
    if wait and not dry_run:
        codes += call(lambda api: _wait_all(api, results, timeout))
    if is_quiet:
        from vdc.cli.render import print_values, values_of

        print_values({"items": values_of(list(results.values()))}, output)
    if any(codes):
        raise ReportedError(1 if 1 in codes else 2)


def mark_duplicates(loaded: tuple[Loaded, ...]) -> tuple[Loaded, ...]:
    """Refuse the second manifest of one name: which of them is meant cannot be known."""
    from dataclasses import replace

    from vdc.model.manifest_file import ManifestError

    seen: dict[str, str] = {}
    result = []
    for item in loaded:
        if item.manifest and item.name in seen:
            error = ManifestError(
                f"{item.source}: {item.label} is described in {seen[item.name]} already",
                code="manifest-duplicate",
            )
            item = replace(item, manifest=None, error=error)  # noqa: PLW2901
        elif item.manifest:
            seen[item.name] = item.source
        result.append(item)
    return tuple(result)


async def _apply_all(
    api: ApiClient, loaded: tuple[Loaded, ...], *, dry_run: bool, quiet: bool
) -> tuple[list[int], dict[str, ApplyResult]]:
    from vdc.cli.local_images import with_local_image
    from vdc.model.errors import VdcError

    codes: list[int] = []
    results: dict[str, ApplyResult] = {}
    for item in loaded:
        codes.append(tell(item, quiet=quiet))
        if item.manifest is None:
            continue
        try:
            manifest = await with_local_image(api, item.manifest, dry_run=dry_run)
            result = await api.apply_endophyte(manifest, dry_run=dry_run)
        except VdcError as error:
            codes.append(_complain(error, item))
            continue
        results[item.name] = result
        if not quiet:
            origin = f" (from {item.origin})" if item.origin else ""
            print(f"{item.label} {result.action}{origin}{' (dry run)' if dry_run else ''}", flush=True)
    return codes, results


def tell(item: Loaded, *, quiet: bool = False) -> int:
    """Print what is wrong with an object, means nothing in it, or became of it; returns the exit code."""
    for note in item.notes:
        print(f"note: {clean(f'{item.origin or item.label}: {note}')}", file=sys.stderr)
    if item.error is not None:
        return _complain(item.error, item)
    if item.part_of and not quiet:
        print(clean(f"{item.label} {item.part_of}"), flush=True)
    return 0


async def _wait_all(api: ApiClient, results: dict[str, ApplyResult], timeout_s: float) -> list[int]:
    """Wait for all at the same time; each is judged on its own."""
    import asyncio

    from vdc.cli.progress import StatusLine
    from vdc.cli.waiting import goal_of, wait_for
    from vdc.model.errors import VdcError
    from vdc.model.manifest import EndophyteSpec

    async def one(name: str, spec: EndophyteSpec, line: StatusLine) -> int:
        goal = goal_of(spec)
        try:
            view = await wait_for(api, name, goal, timeout_s, line)
        except VdcError as error:
            line.clear()
            return _complain(error)
        line.clear()
        print(f"endophyte/{name} is {goal.words}: {clean(view.status.sentence)}", flush=True)
        return 0

    with StatusLine() as line:
        work = [
            one(name, EndophyteSpec.model_validate(result.endophyte.spec), line)
            for name, result in results.items()
            if result.endophyte
        ]
        return list(await asyncio.gather(*work))


def _complain(error: Any, item: Loaded | None = None) -> int:
    from vdc.cli.errors import exit_code_of, print_problem
    from vdc.model.manifest_file import ManifestError

    problem = error.problem
    if item is not None and not isinstance(error, ManifestError):
        problem = problem.with_(message=f"{item.label}: {problem.message}")
    print_problem(problem)
    return exit_code_of(error)
