"""Long random runs from a seed: surprises now and then, the usual otherwise; and the race for the epoch."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.simulation.explore import CounterExample
from tests.simulation.facts import violations
from tests.simulation.liveness import Peace
from tests.simulation.network import REPLICATION
from tests.simulation.qemu import emits
from tests.simulation.searches import in_lockstep
from tests.simulation.settling import settle
from tests.simulation.steps import COMMAND, FAULT, NORMAL, RECOVERY, Step, own_steps, steps, usual_step
from tests.simulation.world import World

WEIGHTS = {NORMAL: 60, RECOVERY: 25, FAULT: 12, COMMAND: 3}


def random_run(seed: int, length: int = 120, *, start: World | None = None) -> CounterExample | None:
    """One run, then peace. None where everything held."""
    chance = random.Random(seed)
    world, sentences = start or in_lockstep(), list[str]()
    for _ in range(length):
        step = _choose(world, chance)
        if step is None:
            break
        sentences.append(step.text)
        broken = violations(step.after, world, only_agents=step.only_agents)
        if broken:
            return CounterExample(sentences, broken)
        world = step.after
    trouble = Peace().trouble(world)
    return CounterExample([*sentences, *trouble.sentences], trouble.broken) if trouble else None


def _choose(world: World, chance: random.Random) -> Step | None:
    if chance.random() < 0.5 and (usual := usual_step(world)) is not None:
        return usual
    by_kind: dict[str, list[Step]] = {}
    for step in steps(world):
        by_kind.setdefault(step.kind, []).append(step)
    if not by_kind:
        return None
    kinds = list(by_kind)
    kind = chance.choices(kinds, [WEIGHTS[one] for one in kinds])[0]
    return chance.choice(by_kind[kind])


@dataclass(frozen=True)
class Race:
    """How a race for the epoch ended: the host that speaks, or -1, and what was violated on the way."""

    winner: int
    epoch: int
    run: CounterExample | None


def race(seed: int) -> Race:
    """Replication between the two copies is cut, in one direction or both; everything else in any order."""
    chance = random.Random(seed)
    directions = chance.choice([{(0, 1)}, {(1, 0)}, {(0, 1), (1, 0)}])
    world = in_lockstep()._replace(cuts=frozenset((a, b, REPLICATION) for a, b in directions))
    world, sentences = settle(world), [f"replication is cut: {sorted(directions)}"]
    while (world.store.rec is not None and world.store.rec.body.epoch == 2) or _is_open(world):
        options = own_steps(world)
        if not options or len(sentences) > 200:
            break
        step = chance.choice(options)
        sentences.append(step.text)
        broken = violations(step.after, world, only_agents=step.only_agents)
        if broken:
            return Race(-1, 0, CounterExample(sentences, broken))
        world = step.after
    speaking = [h for h in range(len(world.hosts)) if emits(world, h)[0]]
    assert world.store.rec is not None
    return Race(speaking[0] if len(speaking) == 1 else -1, world.store.rec.body.epoch, None)


def _is_open(world: World) -> bool:
    """Whether nobody speaks yet, or the loser still has a process."""
    speaking = [h for h in range(len(world.hosts)) if emits(world, h)[0]]
    return len(speaking) != 1 or all(world.hosts[h].qemu is not None for h in (0, 1))
