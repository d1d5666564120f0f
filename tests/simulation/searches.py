"""The searches that `make check` and `make test` run, and how far each goes.

A surprise is a fault, a command, an end of a fault at an unusual moment, or anything out of the usual order
(steps.py). `horizon` is the last epoch that is followed: 2 is the first lockstep, 3 after one failover.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from tests.simulation.explore import CounterExample, Found, explore, path
from tests.simulation.faults import commands
from tests.simulation.liveness import Peace
from tests.simulation.rules import remembers
from tests.simulation.settling import settle
from tests.simulation.steps import steps, usual_step
from tests.simulation.world import GONE, World, first_world

IS_DEEP = os.environ.get("VDC_SIMULATION", "") == "deep"


@dataclass(frozen=True)
class Search:
    """Where from, how many surprises, how far, and for which share of the worlds peace is tried."""

    name: str
    start: Callable[[], World]
    surprises: int
    horizon: int
    peace_every: int = 1
    cuts: bool = True


class _UnwellError(Exception):
    """Ends a search whose world does not come to rest well."""

    def __init__(self, mark: int, trouble: CounterExample) -> None:
        super().__init__(str(trouble))
        self.mark, self.trouble = mark, trouble


@lru_cache(1)
def in_lockstep() -> World:
    """The world after an undisturbed start: h1 in lockstep with h2, h3 spare."""
    world = first_world()
    while (step := usual_step(world)) is not None:
        world = step.after
    return world


def while_copying() -> World:
    """The primary is about to copy disk and memory to its secondary."""
    return after_usual("h1: begins to copy disk and memory")


def after_usual(last: str) -> World:
    """The world after an undisturbed start, up to a sentence."""
    world = first_world()
    while (step := usual_step(world)) is not None:
        world = step.after
        if step.text == last:
            return world
    raise LookupError(f"an undisturbed start never says: {last}")


def without_spare() -> World:
    """As `in_lockstep`, and h3 is gone for good: two hosts that must do with each other."""
    return settle(in_lockstep().host(2, power=GONE, agent=None))


def planned_switch() -> World:
    """An operator has just asked the replica to take over."""
    asked = next(
        after for text, after in commands(in_lockstep()) if text.startswith("operator: promotes the replica")
    )
    return settle(asked)


remembers(in_lockstep.cache_clear)


CHECK = (
    Search("from nothing", first_world, surprises=1, horizon=6),
    Search("a planned switch", planned_switch, surprises=1, horizon=6),
    Search("from lockstep", in_lockstep, surprises=2, horizon=3, peace_every=7),
)
DEEP = (
    Search("from the copying on", while_copying, surprises=2, horizon=2, peace_every=3),
    Search("a planned switch, deeper", planned_switch, surprises=2, horizon=3, peace_every=3),
    Search("from lockstep without a spare", without_spare, surprises=2, horizon=4, peace_every=7, cuts=False),
    Search("from lockstep, deeper", in_lockstep, surprises=2, horizon=6),
)


BY_REGRESSION = "more surprises than any search has"  # the regression alone notices it
# What these notice takes seconds each, so that only `make test` looks.
LONG = (
    "from lockstep", "from the copying on", "a planned switch, deeper", "from lockstep without a spare",
)  # fmt: skip


def run(search: Search, *, most: int = 10**9) -> Found:
    """Search; a world that does not end well in peace counts as a counter-example."""
    peace, found, count = Peace(), Found(), 0

    def visit(world: World) -> None:
        nonlocal count
        count += 1
        if count % search.peace_every == 0 and (trouble := peace.trouble(world)) is not None:
            raise _UnwellError(hash(world), trouble)

    try:
        explore(
            [search.start()], search.surprises, horizon=search.horizon, most=most, visit=visit, found=found,
            next_steps=partial(steps, cuts=search.cuts),
        )  # fmt: skip
    except _UnwellError as error:
        sentences = [*path(found.seen, error.mark), *error.trouble.sentences]
        found.counter_example = CounterExample(sentences, error.trouble.broken)
    return found
