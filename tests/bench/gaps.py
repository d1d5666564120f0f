"""What a client sees of a killed QEMU, a host without power and a planned promotion."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tests.bench.figures import Figure
from tests.bench.suite import Suite
from tests.bench.trace import Gaps, gaps_around
from tests.bench.world import ECHO, LAB, NAME, SETTLE_S, BenchError, World, monotonic_of, wall_s
from vdc.lab import api as lab_api
from vdc.lab.processes import signal_all

SESSIONS = 16
LEAD_S = 1.0  # of undisturbed answers before the fault
WATCH_S = 2.0  # after it, in which nobody else asks the agents anything
AFTER_S = 0.5  # past the promotion that still counts as around the fault
READY_S = 20.0

Strike = Callable[[World], Awaitable[float]]  # does it and returns when it took effect


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


async def kill_qemu(world: World) -> float:
    """SIGKILL to the primary's QEMU."""
    process = await world.qemu(await world.primary())
    at = time.monotonic()
    signal_all([process], signal.SIGKILL)
    return at


async def power_off(world: World) -> float:
    """Links down and SIGKILL to everything on the primary's host."""
    host = await world.primary()
    effective: list[float] = []
    await lab_api.fault(LAB, "power-off", host, progress=lambda _: effective.append(time.monotonic()))
    return effective[0]


async def promote(world: World) -> float:
    """A planned promotion through the API."""
    at = time.monotonic()
    await world.api.promote_endophyte(NAME)
    return at


async def one_round(world: World, address: str, strike: Strike) -> dict[str, Any]:
    """One fault under the sessions; returns its figures in milliseconds."""
    async with Sessions(world, address) as sessions:
        await asyncio.sleep(LEAD_S)
        begin, began_wall = time.monotonic(), time.time()
        effective = await strike(world)
        await asyncio.sleep(WATCH_S)
        event = await world.event("promoted", began_wall)
        promoted = monotonic_of(wall_s(event))
        await asyncio.sleep(max(0.0, promoted + AFTER_S + 0.5 - time.monotonic()))
        trace = await sessions.trace()
    try:
        gaps: Gaps = gaps_around(trace, begin, promoted + AFTER_S)
    except ValueError as error:
        raise BenchError(f"after the fault: {error}") from error
    figures = event.figures
    total_ms = figures.get("total_ms", 0.0)
    return {
        "slowest_request_ms": gaps.slowest_request_ms,
        "service_gap_ms": gaps.service_gap_ms,
        "gap_before_ms": gaps.before_ms,
        "effect_to_decision_ms": (promoted - effective) * 1000 - total_ms,
        "arbitrated_ms": figures.get("arbitrated_ms", 0.0),
        "total_ms": total_ms,
        "event_figures": dict(figures),
        "sentence": event.sentence,
    }


async def rounds(suite: Suite, address: str, what: str, strike: Strike) -> list[dict[str, Any]]:
    """As many as were asked for; one that fails is reported, and the next begins with a whole cluster."""
    world, found = suite.world, []
    for number in range(suite.options.runs):
        try:
            await world.lockstep()
            await asyncio.sleep(SETTLE_S)
            found.append(await one_round(world, address, strike))
            gap = found[-1]["service_gap_ms"]
            suite.say(f"{what} {number + 1}/{suite.options.runs}: service gap {gap:.0f} ms")
        except BenchError as error:
            suite.problem(f"{what}, round {number + 1}: {error}")
        if strike is power_off:
            await world.heal()
    return found


def figures_of(
    key: str, what: str, target: tuple[float, float], found: Sequence[dict[str, Any]], *, is_planned: bool
) -> list[Figure]:
    """The lines of one kind of fault."""

    def pick(name: str) -> tuple[float, ...]:
        return tuple(entry[name] for entry in found)

    figures = [
        Figure(f"{key}.service", f"{what}: service gap", "ms", pick("service_gap_ms"), target=target[0]),
        Figure(
            f"{key}.request", f"{what}: slowest request", "ms", pick("slowest_request_ms"), target=target[1]
        ),
        Figure(f"{key}.arbitrated", f"{what}: agent, right to speak won", "ms", pick("arbitrated_ms")),
        Figure(f"{key}.total", f"{what}: agent, guest speaks", "ms", pick("total_ms")),
    ]
    if not is_planned:
        noticed = pick("effect_to_decision_ms")
        figures.insert(2, Figure(f"{key}.noticed", f"{what}: agent, decided to act", "ms", noticed))
    return figures


async def measure(suite: Suite, key: str, what: str, strike: Strike, target: tuple[float, float]) -> None:
    """All rounds of one kind of fault on one VM; targets of the service gap and of the slowest request."""
    async with suite.world.protected() as address:
        found = await rounds(suite, address, what, strike)
    suite.raw[key] = found
    suite.add(figures_of(key, what, target, found, is_planned=strike is promote))


async def killed(suite: Suite) -> None:
    await measure(suite, "gap-kill", "killed QEMU", kill_qemu, (200, 200))


async def powerless(suite: Suite) -> None:
    await measure(suite, "gap-power-off", "host without power", power_off, (500, 500))


async def planned(suite: Suite) -> None:
    await measure(suite, "gap-planned", "planned promotion", promote, (100, 150))
