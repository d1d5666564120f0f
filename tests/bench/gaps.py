"""What a client sees of each class of faults (strikes.py), and when the VM is protected again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from tests.bench.figures import Figure
from tests.bench.strikes import KILLED, OTHERS, PLANNED, POWERLESS, Strike
from tests.bench.suite import Suite
from tests.bench.trace import Gaps, gaps_around
from tests.bench.world import ECHO, SETTLE_S, BenchError, World, monotonic_of, wall_s

SESSIONS = 16
LEAD_S = 1.0  # of undisturbed answers before the fault
AFTER_S = 0.5  # past its end that still counts as around the fault
READY_S = 20.0


class Sessions:
    """The client's sessions for one fault."""

    def __init__(self, world: World, address: str) -> None:
        self._argv = world.client_argv("gaps", address, ECHO, SESSIONS)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Sessions:
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 24
        )
        try:
            await self._line(READY_S)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def trace(self) -> list[Any]:
        """End the sessions and return every exchange; raises BenchError where one broke."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        found = await self._line(READY_S)
        if found["errors"]:
            raise BenchError(f"sessions broke: {'; '.join(found['errors'][:3])}")
        trace: list[Any] = found["trace"]
        return trace

    async def _line(self, timeout_s: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
            found: dict[str, Any] = json.loads(line)
        except (TimeoutError, ValueError) as error:
            raise BenchError("the client's sessions did not come up") from error
        return found

    async def _end(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


async def one_round(world: World, address: str, strike: Strike) -> dict[str, Any]:
    """One fault under the sessions; returns its figures in milliseconds."""
    async with Sessions(world, address) as sessions:
        await asyncio.sleep(LEAD_S)
        begin, began_wall = time.monotonic(), time.time()
        effective = await strike.do(world)
        await asyncio.sleep(strike.rests_s)
        event = await world.event(strike.ended_by, began_wall)
        ended = monotonic_of(wall_s(event))
        await asyncio.sleep(max(0.0, ended + AFTER_S + 0.5 - time.monotonic()))
        trace = await sessions.trace()
    try:
        gaps: Gaps = gaps_around(trace, begin, ended + AFTER_S)
    except ValueError as error:
        raise BenchError(f"after the fault: {error}") from error
    again = await world.event("lockstep", began_wall)
    figures = event.figures
    total_ms = figures.get("total_ms", 0.0)
    return {
        "slowest_request_ms": gaps.slowest_request_ms,
        "service_gap_ms": gaps.service_gap_ms,
        "gap_before_ms": gaps.before_ms,
        "effect_to_decision_ms": (ended - effective) * 1000 - total_ms,
        "arbitrated_ms": figures.get("arbitrated_ms", 0.0),
        "total_ms": total_ms,
        "protected_after_s": monotonic_of(wall_s(again)) - effective,
        "event_figures": dict(figures),
        "sentence": event.sentence,
    }


async def rounds(suite: Suite, address: str, strike: Strike, runs: int) -> list[dict[str, Any]]:
    """So many; one that fails is reported, and the next begins with a whole cluster."""
    world, found = suite.world, []
    for number in range(runs):
        try:
            await world.lockstep()
            await asyncio.sleep(SETTLE_S)
            found.append(await one_round(world, address, strike))
            gap = found[-1]["service_gap_ms"]
            suite.say(f"{strike.what} {number + 1}/{runs}: service gap {gap:.0f} ms")
        except BenchError as error:
            suite.problem(f"{strike.what}, round {number + 1}: {error}")
        if strike.needs_healing:
            await world.heal()
    return found


def figures_of(strike: Strike, found: Sequence[dict[str, Any]]) -> list[Figure]:
    """The lines of one kind of fault."""

    def line(key: str, what: str, name: str, unit: str = "ms", target: float | None = None) -> Figure:
        values = tuple(entry[name] for entry in found)
        return Figure(f"{strike.key}.{key}", f"{strike.what}: {what}", unit, values, target=target)

    noticed = [] if strike is PLANNED else [line("noticed", "agent, decided to act", "effect_to_decision_ms")]
    return [
        line("service", "service gap", "service_gap_ms", target=strike.targets[0]),
        line("request", "slowest request", "slowest_request_ms", target=strike.targets[1]),
        *noticed,
        line("arbitrated", "agent, right to speak won", "arbitrated_ms"),
        line("total", "agent, guest speaks", "total_ms"),
        line("protected", "protected again", "protected_after_s", unit="s"),
    ]


async def measure(suite: Suite, strike: Strike, runs: int) -> None:
    """All rounds of one kind of fault on one VM."""
    async with suite.world.protected() as address:
        found = await rounds(suite, address, strike, runs)
    suite.raw[strike.key] = found
    suite.add(figures_of(strike, found))


async def killed(suite: Suite) -> None:
    await measure(suite, KILLED, suite.options.runs)


async def powerless(suite: Suite) -> None:
    await measure(suite, POWERLESS, suite.options.runs)


async def planned(suite: Suite) -> None:
    await measure(suite, PLANNED, suite.options.runs)


async def others(suite: Suite) -> None:
    """The faults that matter less often, half as many of each."""
    for strike in OTHERS:
        await measure(suite, strike, (suite.options.runs + 1) // 2)
