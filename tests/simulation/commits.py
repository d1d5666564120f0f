"""The compare-and-swap that decides who may speak (hostagent/supervisor/arbiter.py), and the write of its epoch to
the host's own disk beside it.
"""

from __future__ import annotations

from hostagent.supervisor.jobs import CALLS_OFF
from tests.simulation import store
from tests.simulation.agent import COMMITS, discard
from tests.simulation.network import store_answers
from tests.simulation.outcomes import Outcome, failed, fenced, on
from tests.simulation.rules import kept
from tests.simulation.world import HOSTS, Job, World


def commit(world: World, h: int, job: Job) -> list[Outcome]:
    """arbiter.swap_pair, with the write of the epoch to this host's disk beside it."""
    agent, name, base = world.hosts[h].agent, HOSTS[h], job.rec
    kind = COMMITS.get(job.action, "alone")
    after = store.following(kind, base.body) if base else None
    if job.probe and world.hosts[h].qemu is not None and world.hosts[h].qemu.hung:
        return failed(world, h, f"{name}: its own QEMU does not answer, so it may not ask to {kind}")
    if after is None:
        return failed(world, h, f"{name}: the transition ({kind}) is refused")
    request = f"{name}/{base.rev}/{agent.attempt}"
    what = f"the commit of epoch {after.epoch} ({kind})"
    if not store_answers(world, h):
        return failed(
            remember(world, h, kind, after.epoch), h, f"{name}: {what} finds no majority of the store"
        )
    swapped, rec = store.swap(world, base, after, request)
    if rec is None and kept("compare"):
        return fenced(remember(world, h, kind, after.epoch), h, f"{name}: {what} comes too late")
    if rec is None:
        swapped = store.put(world, store.Rec(base.rev + 100, request, after))
        rec = swapped.store.rec
    swapped = swapped.agent(h, attempt=0, mirror=agent.mirror._replace(rec=rec))
    lost = store.leave_in_flight(world, h, base, after, request)
    lost = remember(lost, h, kind, after.epoch).agent(h, attempt=agent.attempt + 1)
    text = f"{name}: {what} is sent and no answer comes"
    won = on(swapped, h, f"{name}: {what} is won")
    return [*won, *_unknown(lost, h, text, rec)]


def _unknown(world: World, h: int, text: str, rec: store.Rec) -> list[Outcome]:
    if not kept("unknown is not won"):
        world = world.agent(h, mirror=world.hosts[h].agent.mirror._replace(rec=rec))
        return [one._replace(cost=1) for one in on(world, h, text + "; it acts as if it had won")]
    if not kept("unknown is not lost"):
        world = discard(world.agent(h, job=None), h)
        return [Outcome(1, text + "; it acts as if it had lost", world)]
    return [one._replace(cost=1) for one in failed(world, h, text)]


def remember(world: World, h: int, kind: str, epoch: int) -> World:
    """What is written beside a commit: Copy.remember_epoch, for a promotion also `disks.promoted`."""
    if kind == "mark" or world.hosts[h].agent.job.action in CALLS_OFF:  # those save it after the commit
        return world
    host = world.hosts[h]
    if kept("epoch on disk first"):
        world = remember_alone(world, h, epoch)
    if kind == "promote" and host.disk is not None:
        world = world.host(h, disk=host.disk._replace(epoch=epoch, state="unsettled"))
    return world


def remember_alone(world: World, h: int, epoch: int) -> World:
    """Copy.remember_epoch."""
    agent = world.hosts[h].agent
    mem = agent.mem._replace(highest=max(agent.mem.highest, epoch))
    return world.host(h, agent=agent._replace(mem=mem), saved=mem)


def durable(world: World, h: int, job: Job) -> list[Outcome]:
    """What was begun beside the commit is on the disk; only now QEMU is told anything."""
    kind, rec = COMMITS[job.action], world.hosts[h].agent.mirror.rec
    epoch = rec.body.epoch if rec else 0
    return on(remember(world, h, kind, epoch), h, f"{HOSTS[h]}: epoch {epoch} is on its disk")
