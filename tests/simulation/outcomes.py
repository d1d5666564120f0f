"""What a step of a job may lead to, and how a job ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.simulation.agent import end_process, switch_given_up
from tests.simulation.world import Job, World
from vdc.model.endophyte import CopyStage
from vdc.protection.table import Action


class Outcome(NamedTuple):
    """What one step may lead to. `cost` is 1 where something has to go wrong for it."""

    cost: int
    text: str
    world: World


StepFn = Callable[[World, int, Job], list[Outcome]]


def on(world: World, h: int, text: str) -> list[Outcome]:
    """It worked; the next step follows."""
    job = world.hosts[h].agent.job
    return [Outcome(0, text, world.agent(h, job=job._replace(at=job.at + 1)))]


def failed(world: World, h: int, text: str) -> list[Outcome]:
    """It raised: supervisor._failed."""
    job = world.hosts[h].agent.job
    action = job.action
    if job.planned:  # an operator asked for it, and is told
        return [Outcome(0, text, switch_given_up(world, h, job).agent(h, job=None))]
    if action is Action.PREPARE or action is Action.START:  # secondary.failed
        world = end_process(world, h).save(h, stage=CopyStage.FAILED)
    elif action is Action.ENTER and world.hosts[h].agent.mem.stage is CopyStage.ENTERING:
        world = world.mem(h, stage=CopyStage.LEAVING)
    return [Outcome(0, text, world.agent(h, job=None, failed=action, due=False))]


def fenced(world: World, h: int, text: str) -> list[Outcome]:
    """Somebody else was faster: nothing is done."""
    world = switch_given_up(world, h, world.hosts[h].agent.job)
    return [Outcome(0, text, world.agent(h, job=None))]


def over(world: World, h: int) -> World:
    """The job is done."""
    return world.agent(h, job=None, failed=None, due=True)
