"""Latency and throughput of three services: unprotected, protected, and both again on the bare pair.

Product and bare pair take turns round by round, so that what else this machine does hits both alike; the
ratio is taken round by round too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tests.bench.bare import ADDRESS, bare_pair
from tests.bench.figures import Figure, ratios
from tests.bench.suite import Suite
from tests.bench.world import NAME, SETTLE_S, BenchError, World, rate
from vdc.model.endophyte import MachineFacts
from vdc.model.errors import VdcError

SERVICES = ("echo", "diverging", "durable")
PRODUCT, BARE = "product", "bare pair"
PROTECTED, ALONE = "protected", "unprotected"
MOST_RATIO = 1.1
FACTS_S = 10.0

Round = dict[str, dict[str, dict[str, Any]]]  # by who and how, then by service


async def compare(suite: Suite) -> None:
    """All rounds; the one that fails is reported and left out as a whole, so that pairs stay pairs."""
    found: list[Round] = []
    for number in range(suite.options.rounds):
        try:
            found.append(await one_round(suite))
        except (VdcError, TimeoutError) as error:
            suite.problem(f"latency, round {number + 1}: {error}")
            continue
        shown = ", ".join(f"{name} {_p50s(found[-1][name])}" for name in found[-1])
        suite.say(f"latency {number + 1}/{suite.options.rounds}: p50 of {', '.join(SERVICES)}: {shown}")
    suite.raw["latency"] = found
    suite.add(figures_of(found))


def _p50s(services: Mapping[str, Mapping[str, Any]]) -> str:
    return "/".join(f"{services[service]['p50_ms']:.1f}" for service in SERVICES)


async def one_round(suite: Suite) -> Round:
    """The product's VM, then the bare pair; each protected first, then alone."""
    world, found = suite.world, {}
    async with world.protected() as address:
        facts = await machine_facts(world)
        found[f"{PRODUCT}, {PROTECTED}"] = await services(suite, address)
        await world.unprotect()
        found[f"{PRODUCT}, {ALONE}"] = await services(suite, address)
    async with bare_pair(world, facts) as pair:
        await pair.protect()
        await asyncio.sleep(SETTLE_S + 2.0)  # the product takes two seconds for its proof
        found[f"{BARE}, {PROTECTED}"] = await services(suite, ADDRESS)
        await pair.unprotect()
        await asyncio.sleep(SETTLE_S)
        found[f"{BARE}, {ALONE}"] = await services(suite, ADDRESS)
    return found


async def services(suite: Suite, address: str) -> dict[str, dict[str, Any]]:
    """One closed loop after the other."""
    return {service: await rate(suite.world, address, service, suite.options.seconds) for service in SERVICES}


async def machine_facts(world: World) -> MachineFacts:
    """What the primary's QEMU was started with."""
    description = await world.api.describe_endophyte(NAME)
    for copy in description.copies:
        if copy.machine is not None:
            return copy.machine
    raise BenchError(f"nobody says how {NAME} was started")


def figures_of(found: list[Round]) -> list[Figure]:
    """Latency, then the ratio to the bare pair, then throughput."""
    latency, throughput, compared = [], [], []
    for service in SERVICES:
        for who in (PRODUCT, BARE):
            for how in (ALONE, PROTECTED):
                name = f"{who}, {how}"
                rows = [entry[name][service] for entry in found]
                key = f"{service}.{who.split()[0]}.{how}"
                p50s = tuple(row["p50_ms"] for row in rows)
                p95s = tuple(row["p95_ms"] for row in rows)
                latency.append(Figure(f"latency.{key}", f"{service} latency, {name}", "ms", p50s, p95s))
                per_s = tuple(row["per_s"] for row in rows)
                throughput.append(Figure(f"rate.{key}", f"{service} throughput, {name}", "/s", per_s))
        compared += ratio_figures(service, found)
    return [*latency, *compared, *throughput]


def ratio_figures(service: str, found: list[Round]) -> list[Figure]:
    """Product by bare pair, round by round; above 1 the product is slower."""

    def p50s(who: str, how: str) -> list[float]:
        return [float(entry[f"{who}, {how}"][service]["p50_ms"]) for entry in found]

    return [
        Figure(
            f"ratio.{service}.{how}",
            f"{service} latency, product / bare pair, {how}",
            "",
            ratios(p50s(PRODUCT, how), p50s(BARE, how)),
            target=MOST_RATIO if how == PROTECTED else None,
        )
        for how in (ALONE, PROTECTED)
    ]
