"""What becomes of a world that is left in peace: every fault has ended, time passes, things happen as usual.

A VM that is wanted must end protected on two hosts; a stopped one stopped; a deleted one gone without a trace.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation import faults, qemu
from tests.simulation.explore import CounterExample
from tests.simulation.facts import violations
from tests.simulation.settling import settle
from tests.simulation.steps import usual_step
from tests.simulation.world import GONE, NOBODY, World

MOST_STEPS = 400


@dataclass
class Peace:
    """Remembers which worlds are known to end well, so that a million of them can be asked about."""

    good: set[int] = field(default_factory=set)

    def trouble(self, world: World) -> CounterExample | None:
        """The run of a world that is healed, where it does not end as it should."""
        sentences = ["every fault ends"]
        world = settle(faults.heal(world))
        passed: list[int] = []
        while len(passed) < MOST_STEPS:
            mark = hash(world)
            if mark in self.good:
                break
            passed.append(mark)
            step = usual_step(world)
            if step is None:
                wrong = not_well(world)
                if wrong:
                    return CounterExample(sentences, (f"liveness: {wrong}",))
                break
            sentences.append(step.text)
            broken = violations(step.after, world, only_agents=step.only_agents)
            if broken:
                return CounterExample(sentences, broken)
            world = step.after
        else:
            return CounterExample(sentences[:60], (f"liveness: no rest after {MOST_STEPS} steps",))
        self.good.update(passed)
        return None


def _places(world: World) -> list[int]:
    return [h for h, host in enumerate(world.hosts) if host.power != GONE and h != world.store.drained]


def not_well(world: World) -> str:
    """What is wrong with a world in which nothing happens any more; empty where nothing is."""
    wish, rec = world.store.wish, world.store.rec
    left = [h for h, host in enumerate(world.hosts) if host.qemu or host.disk or host.saved]
    if wish is None:
        return f"the VM is deleted, and something of it is left on {left}" if left else ""
    if rec is None:
        return "the VM was never placed"
    p, s = rec.body.primary, rec.body.secondary
    speaking = [h for h in range(len(world.hosts)) if qemu.emits(world, h)[0]]
    if wish.run == "stopped":
        return f"the VM is stopped, and runs on {speaking}" if speaking or world.hosts[p].qemu else ""
    if wish.run == "paused":
        process = world.hosts[p].qemu
        return "" if process and not speaking else f"the VM is paused, and speaks from {speaking}"
    if speaking != [p]:
        return f"the VM does not speak from its primary h{p + 1} (but from {speaking})"
    has_place = any(h != p for h in _places(world))
    if (
        wish.protect
        and has_place
        and (s == NOBODY or rec.body.sync != "in_sync" or qemu.emits(world, p)[1] != s)
    ):
        return "the VM is not protected"
    if not wish.protect and s != NOBODY:
        return "the VM is protected against its user's will"
    if any(h not in (p, s) for h in left):
        return f"something of an old copy is left on {left}"
    return ""
