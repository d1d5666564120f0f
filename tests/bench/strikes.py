"""The faults whose gap is measured: how each is done, and by which event a host says that it dealt with it."""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.bench.world import LAB, NAME, BenchError, World
from vdc.lab import api as lab_api
from vdc.lab.processes import signal_all


@dataclass(frozen=True, slots=True)
class Strike:
    """One class of faults. `do` does it and returns when it took effect, on the monotonic clock.

    `ended_by` is the code of the event that tells the end; targets are in milliseconds, of the service gap and of
    the slowest request. `rests_s`: how long nobody asks the agents anything; the end has to fall into it.
    """

    key: str
    what: str
    do: Callable[[World], Awaitable[float]]
    ended_by: str = "promoted"
    targets: tuple[float | None, float | None] = (None, None)
    rests_s: float = 2.0
    needs_healing: bool = False


async def secondary(world: World) -> str:
    """The secondary's host."""
    copy = (await world.view()).status.secondary
    if copy is None:
        raise BenchError(f"{NAME} has no secondary")
    return copy.host


def _signal(
    of: Callable[[World], Awaitable[str]], number: signal.Signals
) -> Callable[[World], Awaitable[float]]:
    async def do(world: World) -> float:
        process = await world.qemu(await of(world))
        at = time.monotonic()
        signal_all([process], number)
        return at

    return do


def _fault(
    of: Callable[[World], Awaitable[str]], kind: str, network: str = "all"
) -> Callable[[World], Awaitable[float]]:
    async def do(world: World) -> float:
        host = await of(world)
        if kind == "partition" and network == "all":
            await world.ask_others_than(host)
        effective: list[float] = []
        await lab_api.fault(
            LAB, kind, host, network=network, progress=lambda _: effective.append(time.monotonic())
        )
        return effective[0] if effective else time.monotonic()

    return do


async def _promote(world: World) -> float:
    at = time.monotonic()
    await world.api.promote_endophyte(NAME)
    return at


KILLED = Strike("gap-kill", "killed QEMU", _signal(World.primary, signal.SIGKILL), targets=(200, 200))
POWERLESS = Strike(
    "gap-power-off", "host without power", _fault(World.primary, "power-off"), targets=(400, 400), needs_healing=True
)  # fmt: skip
PLANNED = Strike("gap-planned", "planned promotion", _promote, targets=(100, 150))
OTHERS = (
    Strike("gap-secondary-kill", "secondary's QEMU killed", _signal(secondary, signal.SIGKILL), "alone"),
    Strike(
        "gap-secondary-power-off", "secondary's host without power", _fault(secondary, "power-off"), "alone",
        needs_healing=True,
    ),
    Strike("gap-hang", "hanging primary", _signal(World.primary, signal.SIGSTOP), rests_s=5.0),
    Strike("gap-secondary-hang", "hanging secondary", _signal(secondary, signal.SIGSTOP), "alone", rests_s=5.0),
    Strike(
        "gap-replication-cut", "secondary off the replication network", _fault(secondary, "partition", "replication"),
        "alone",
        needs_healing=True,
    ),
    Strike("gap-isolated", "primary cut off", _fault(World.primary, "partition"), needs_healing=True),
)  # fmt: skip
