"""The guest's own costs: checkpoints, the stop on entering lockstep, and the time to get there."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.bench.figures import Figure
from tests.bench.suite import Suite
from tests.bench.world import LAB, NAME, BenchError, World
from vdc.lab import api as lab_api
from vdc.lab.sessions import Workload
from vdc.model.endophyte import CheckpointFigures, Phase, Protection
from vdc.model.errors import VdcError

FRESH_S = 6.0  # the agent publishes its figures every 5 s
MOST_STOPPED_MS = 150
MOST_PAUSE_MS = 20
LOAD_PAUSE_MS = 10.0
START_S = 60.0


def checkpoint_figures(key: str, what: str, found: CheckpointFigures, target: float | None) -> list[Figure]:
    """p50 and p99 of all checkpoints of one lockstep."""
    values = (("p50", found.pause_ms_p50, target), ("p99", found.pause_ms_p99, None))
    return [
        Figure(
            f"{key}.{name}", f"checkpoint pause {name}, {what}", "ms", (value,),
            target=most, count=found.count,
        )
        for name, value, most in values
    ]  # fmt: skip


async def loaded(suite: Suite) -> None:
    """Checkpoints of a lockstep that was entered under load and knows nothing else."""
    world = suite.world
    async with world.protected() as address:
        await world.unprotect()
        workload = Workload(
            lambda argv: lab_api.exec_argv(LAB, "client", argv), address, pause_ms=LOAD_PAUSE_MS, tag=NAME
        )
        try:
            await asyncio.to_thread(workload.start)
            await world.protect()
            await asyncio.sleep(suite.options.load_s + FRESH_S)
            view = await world.view()
            report = await asyncio.to_thread(workload.stop)
        except BaseException:
            await asyncio.to_thread(workload.kill)
            raise
    if report.errors:
        raise BenchError(f"the load saw: {report.errors[0]}")
    found = view.status.checkpoints
    suite.raw["load"] = {"checkpoints": found.model_dump(), "requests": _requests(report.sessions)}
    suite.add(checkpoint_figures("checkpoint.load", "under load", found, None))


def _requests(sessions: Any) -> dict[str, dict[str, float]]:
    return {
        name: {"requests": one.requests, "p50_ms": one.latency_p50_ms, "p99_ms": one.latency_p99_ms}
        for name, one in sessions.items()
    }


async def entries(suite: Suite) -> None:
    """Protect again and again, by memory size."""
    for memory in ("256MiB", "2GiB"):
        try:
            found = await entries_of(suite, memory)
        except VdcError as error:
            suite.problem(f"entering lockstep with {memory}: {error}")
            found = []
        suite.raw[f"entry.{memory}"] = found
        stopped = tuple(float(entry["stopped_ms"]) for entry in found)
        total = tuple(float(entry["total_ms"]) for entry in found)
        size = memory.replace("iB", " iB").replace("M ", " M").replace("G ", " G")
        suite.add(
            [
                Figure(
                    f"entry.stopped.{memory}", f"guest stopped on entering lockstep, {size}", "ms", stopped,
                    target=MOST_STOPPED_MS,
                ),
                Figure(f"entry.total.{memory}", f"copying disk and memory, {size}", "ms", total),
            ]
        )  # fmt: skip


async def entries_of(suite: Suite, memory: str) -> list[dict[str, float]]:
    """The figures of the event of each entry; the first is the one after the start."""
    world, found = suite.world, []
    began = time.time()
    async with world.protected(memory):
        found.append(dict((await world.event("lockstep-entered", began)).figures))
        while len(found) < suite.options.runs:
            await world.unprotect()
            began = time.time()
            await world.protect()
            found.append(dict((await world.event("lockstep-entered", began)).figures))
            stopped = found[-1]["stopped_ms"]
            suite.say(f"entry {len(found)}/{suite.options.runs}, {memory}: stopped for {stopped:.0f} ms")
    return found


async def creations(suite: Suite) -> None:
    """From the request to a running guest, to one in lockstep."""
    found: list[dict[str, float]] = []
    for number in range(suite.options.runs):
        try:
            found.append(await one_creation(suite.world))
        except (VdcError, TimeoutError) as error:
            suite.problem(f"create, round {number + 1}: {error}")
            continue
        shown = ", ".join(f"{name} {value:.1f} s" for name, value in found[-1].items())
        suite.say(f"create {number + 1}/{suite.options.runs}: {shown}")
    suite.raw["create"] = found
    suite.add(
        Figure(f"create.{name}", f"create to {name}", "s", tuple(entry[name] for entry in found))
        for name in ("running", "lockstep")
    )


async def one_creation(world: World) -> dict[str, float]:
    """Followed by the API's own stream, so that asking does not slow it down."""
    await world.delete()
    began = time.monotonic()
    found: dict[str, float] = {}
    try:
        await world.create()
        async with asyncio.timeout(START_S):
            async for view in world.api.watch_endophytes(NAME):
                now = time.monotonic() - began
                if view.status.phase is Phase.RUNNING and "running" not in found:
                    found["running"] = now
                if view.status.protection is Protection.LOCKSTEP:
                    found["lockstep"] = now
                    return found
        raise BenchError("the stream of changes ended")
    finally:
        await asyncio.shield(world.delete())
