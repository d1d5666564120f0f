"""What TLS on the replication connections costs: one guest, protected with and without it in turns.

It is the bare pair, since the product has no way to switch it off. Which of the two comes first changes from round to
round; the ratio is taken round by round.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.bench.bare import ADDRESS, BarePair, bare_pair
from tests.bench.figures import Figure, ratios
from tests.bench.latency import SERVICES, machine_facts, services
from tests.bench.suite import Suite
from tests.bench.world import SETTLE_S
from vdc.model.errors import VdcError

MOST_RATIO = 1.05
TLS, CLEAR = "TLS", "in clear"
_PROVEN_S = 2.0

Round = dict[str, dict[str, Any]]  # by how, then by service; the checkpoints' pause beside the services


async def compare(suite: Suite) -> None:
    """All rounds; one that fails is reported and left out as a whole."""
    async with suite.world.protected():
        facts = await machine_facts(suite.world)
    found: list[Round] = []
    async with bare_pair(suite.world, facts) as pair:
        for number in range(suite.options.rounds):
            order = (TLS, CLEAR) if number % 2 == 0 else (CLEAR, TLS)
            try:
                found.append({how: await one(suite, pair, how) for how in order})
            except (VdcError, TimeoutError) as error:
                suite.problem(f"tls, round {number + 1}: {error}")
                break
            shown = ", ".join(f"{how} {_p50s(found[-1][how])}" for how in (TLS, CLEAR))
            suite.say(f"tls {number + 1}/{suite.options.rounds}: p50 of {', '.join(SERVICES)}: {shown}")
    suite.raw["tls"] = found
    suite.add(figures_of(found))


async def one(suite: Suite, pair: BarePair, how: str) -> dict[str, Any]:
    """Protect, measure, unprotect."""
    await pair.protect(is_encrypted=how == TLS)
    await asyncio.sleep(SETTLE_S + _PROVEN_S)
    measured: dict[str, Any] = {**await services(suite, ADDRESS), "pause": pair.pauses}
    await pair.unprotect()
    await asyncio.sleep(SETTLE_S)
    return measured


def _p50s(measured: dict[str, Any]) -> str:
    return "/".join(f"{measured[service]['p50_ms']:.2f}" for service in SERVICES)


def figures_of(found: list[Round]) -> list[Figure]:
    """Latency with TLS by latency without, and the same of the checkpoints' pause."""
    named = [(service, f"{service} latency") for service in SERVICES] + [("pause", "checkpoint pause")]
    latency, compared = [], []
    for key, name in named:
        values = {how: tuple(float(entry[how][key]["p50_ms"]) for entry in found) for how in (TLS, CLEAR)}
        for how in (TLS, CLEAR):
            latency.append(
                Figure(f"tls.{key}.{how.split()[-1].lower()}", f"{name}, {how}", "ms", values[how])
            )
        ratio = ratios(values[TLS], values[CLEAR])
        compared.append(Figure(f"tls.{key}", f"{name}, {TLS} / {CLEAR}", "", ratio, target=MOST_RATIO))
    return [*latency, *compared]
