"""Following the drain of a host to its end, and what there is to say about it: per VM, and in one line."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable

from vdc.api.client import ApiClient
from vdc.api.models import DrainRequest
from vdc.cli.progress import StatusLine, StepLines
from vdc.cli.text import Column, Table, clean
from vdc.model.base import Record
from vdc.model.errors import UnavailableError
from vdc.model.maintenance import DrainItem, DrainReport, DrainState, DrainWay, Maintenance

_POLL_S = 0.5
_LAG_S = 5.0  # another agent may not have heard of the wish yet


class DrainResult(Record):
    """`vdc node drain -o json`: what was done (by name), what is left and why, what may stay."""

    host: str
    wish: Maintenance | None
    dry_run: bool = False
    is_done: bool
    promoted: tuple[str, ...] = ()
    migrated: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    left: tuple[DrainItem, ...] = ()
    stays: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Drain:
    """One drain as this command line sees it."""

    def __init__(self, api: ApiClient, host: str) -> None:
        self._api, self._host = api, host
        self._steps = StepLines()
        self._seen: dict[str, DrainItem] = {}  # the latest of each, by what it was first seen as
        self._ways: dict[str, DrainWay] = {}
        self._said: dict[str, str] = {}
        self.report: DrainReport | None = None

    async def begin(self, request: DrainRequest) -> DrainReport:
        """Write the wish (or ask for the plan)."""
        self._take(await self._api.drain_node(self._host, request))
        assert self.report is not None
        return self.report

    async def follow(self, timeout_s: float) -> bool:
        """Until nothing is left; False where the time was over before. Raises UnavailableError where resumed."""
        end = time.monotonic() + timeout_s
        resumed_since: float | None = None
        with StatusLine() as line:
            while self.report is None or self.report.left:
                now = time.monotonic()
                if now > end:
                    return False
                await asyncio.sleep(_POLL_S)
                try:
                    self._take(await self._api.drain_report(self._host))
                except UnavailableError:
                    continue  # the agent that was asked may be the one that is drained; the deadline is the judge
                resumed_since = None if self.report and self.report.wish else resumed_since or now
                if resumed_since is not None and now - resumed_since > _LAG_S:
                    raise UnavailableError(
                        f"{self._host} is not drained any more: somebody resumed it", code="resumed"
                    )
                line.show(self._now())
        return True

    def result(self, *, dry_run: bool = False) -> DrainResult:
        """What has happened, by the way in which each was first seen to leave."""
        report = self.report
        assert report is not None
        present = {item.name for item in report.items}
        gone = {name: way for name, way in self._ways.items() if name not in present and not dry_run}

        def by(*ways: DrainWay) -> tuple[str, ...]:
            return tuple(sorted(name for name, way in gone.items() if way in ways))

        return DrainResult(
            host=self._host,
            wish=report.wish,
            dry_run=dry_run,
            is_done=not report.left,
            promoted=by(DrainWay.PROMOTION),
            migrated=by(DrainWay.MIGRATION),
            moved=by(DrainWay.REPLICA),
            left=report.left,
            stays=tuple(item.name for item in report.items if item.state is DrainState.STAYS),
            warnings=report.warnings,
        )

    # ---- inside

    def _take(self, report: DrainReport) -> None:
        self.report = report
        present = {item.name for item in report.items}
        for item in report.items:
            self._ways.setdefault(item.name, item.way)
            self._seen[item.name] = item
            if self._said.get(item.name) != item.sentence and item.state is DrainState.BLOCKED:
                self._said[item.name] = item.sentence
                self._steps(f"{item.name}: {item.sentence}")
        for name in [name for name in self._seen if name not in present]:
            to = self._seen.pop(name).to
            self._steps(f"{name}: {_DONE[self._ways[name]]}{f', {to}' if to else ''}")

    def _now(self) -> str:
        left = self.report.left if self.report else ()
        moving = next((item for item in left if item.state is DrainState.RUNNING), left[0] if left else None)
        return f"{self._host}: {len(left)} left; {moving.name} {moving.sentence}" if moving else ""


_DONE = {
    DrainWay.PROMOTION: "runs on its replica's host now",
    DrainWay.MIGRATION: "migrated",
    DrainWay.REPLICA: "its replica left",
    DrainWay.SPARE: "another spare is held ready",
    DrainWay.DISK: "left",
    DrainWay.NONE: "left",
}


def print_plan(result: DrainResult) -> None:
    """What a drain would do, VM by VM."""
    print_items(result.left)
    for name in result.stays:
        print(f"{name} is stopped; its disks stay on {result.host}")
    if not result.left and not result.stays:
        print(f"nothing is on {result.host}")
    print_warnings(result)


def print_result(result: DrainResult, *, alive: bool) -> None:
    """One line of what was done; what is left as a table on stderr."""
    print_warnings(result)
    if not alive:
        print(
            f"node/{result.host} does not answer; nothing is placed there until `vdc node resume {result.host}`"
        )
    elif result.is_done:
        counts = [
            f"{len(names)} {word}"
            for names, word in (
                (result.promoted, "promoted"), (result.migrated, "migrated"), (result.moved, "replicas moved"),
                (result.stays, "stopped left there"),
            )
            if names
        ]  # fmt: skip
        print(f"node/{result.host} drained: {', '.join(counts) or 'nothing was there'}")
    if result.left:
        print_items(result.left, to_stderr=True)


def print_warnings(result: DrainResult) -> None:
    """What to know before the host is switched off, on stderr."""
    for warning in result.warnings:
        print(f"warning: {clean(warning)}", file=sys.stderr)


def print_items(items: Iterable[DrainItem], *, to_stderr: bool = False) -> None:
    """VMs with a part on the host, as a table."""
    rows = list(items)
    if rows:
        stream = sys.stderr if to_stderr else sys.stdout
        print(Table(_item_columns()).render(rows, stream), file=stream)


def _item_columns() -> list[Column[DrainItem]]:
    return [
        Column("NAME", lambda i: i.name),
        Column("WAY", lambda i: i.way.value),
        Column("STATE", lambda i: i.state.value),
        Column("TO", lambda i: i.to),
        Column("SENTENCE", lambda i: i.sentence),
    ]
