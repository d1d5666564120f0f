"""The search through all runs with at most so many surprises, and the sentence-by-sentence form of what it finds.

Worlds are visited in order of price (a bucket for each), each one once: the first visit is the cheapest, so a
counter-example has the fewest surprises that lead to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.simulation.facts import violations
from tests.simulation.steps import Step, steps
from tests.simulation.world import World

# By hash alone: a million worlds would not fit otherwise. Two worlds of one hash are as good as impossible.
Seen = dict[int, tuple[int, str] | None]


@dataclass
class Found:
    """What a search saw."""

    worlds: int = 0
    steps: int = 0
    is_complete: bool = False
    counter_example: CounterExample | None = None
    seen: Seen = field(default_factory=dict, repr=False)


@dataclass
class CounterExample:
    """A run that ends in a violation; `sentences` can be given to `replay`."""

    sentences: list[str]
    broken: tuple[str, ...]

    def __str__(self) -> str:
        """A numbered list, then what was violated."""
        lines = [f"{number:3}. {text}" for number, text in enumerate(self.sentences, 1)]
        return "\n".join(["", *lines, *(f"  => {text}" for text in self.broken)])


def explore(
    starts: Iterable[World],
    budget: int,
    *,
    most: int = 10**9,
    horizon: int = 6,
    visit: Callable[[World], None] | None = None,
    next_steps: Callable[..., Iterable[Step]] = steps,
    found: Found | None = None,
) -> Found:
    """Visit every world within `budget` surprises of `starts`, at most `most` worlds; stop at a violation.

    Beyond epoch `horizon` nothing is followed: protection that fails again and again would never end.
    """
    found = found or Found()
    buckets: list[deque[tuple[World, int | None, str]]] = [deque() for _ in range(budget + 1)]
    buckets[0].extend((world, None, "") for world in starts)
    seen = found.seen
    for price, bucket in enumerate(buckets):
        while bucket:
            world, parent, text = bucket.popleft()
            mark = hash(world)
            if mark in seen:
                continue
            seen[mark] = None if parent is None else (parent, text)
            found.worlds += 1
            if visit is not None:
                visit(world)
            if found.worlds >= most:
                return found
            rec = world.store.rec
            if rec is not None and rec.body.epoch > horizon:
                continue
            for step in next_steps(world, surprises=price < budget):
                found.steps += 1
                if hash(step.after) in seen:
                    continue
                broken = violations(step.after, world, only_agents=step.only_agents)
                if broken:
                    found.counter_example = CounterExample([*path(seen, mark), step.text], broken)
                    return found
                target = (step.after, mark, step.text)
                if step.cost:
                    buckets[price + step.cost].append(target)
                else:
                    bucket.append(target)
    found.is_complete = True
    return found


def path(seen: Seen, mark: int) -> list[str]:
    """The sentences that lead to a world."""
    sentences: list[str] = []
    at = seen[mark]
    while at is not None:
        mark, text = at
        sentences.append(text)
        at = seen[mark]
    return sentences[::-1]


def replay(start: World, sentences: Iterable[str]) -> tuple[World, tuple[str, ...]]:
    """Follow a run sentence by sentence; returns the world at its end and what it violates on the way.

    Raises LookupError where a sentence is not possible any more: then the run cannot happen.
    """
    world = start
    for text in sentences:
        step = next((one for one in steps(world) if one.text == text), None)
        if step is None:
            raise LookupError(f"not possible here: {text}")
        broken = violations(step.after, world, only_agents=step.only_agents)
        world = step.after
        if broken:
            return world, broken
    return world, ()
