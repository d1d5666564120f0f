"""An agent's passes: what of a decision is new to it, what it begins and what it gives up for that
(hostagent/supervisor/supervisor.py `_pass`, `_dispatch`, `_note`).
"""

from __future__ import annotations

from hostagent.supervisor.jobs import CALLS_OFF, STAGES, UNDISTURBED, is_same_work
from tests.simulation import network, qemu
from tests.simulation.rules import kept
from tests.simulation.store import following, leave_in_flight
from tests.simulation.world import CLEAN, HOSTS, TORN, Agent, Job, Saved, World
from vdc.model.endophyte import CopyStage
from vdc.protection.decide import Decision
from vdc.protection.events import Event
from vdc.protection.table import Action, State

WITHOUT_PAIR = frozenset(
    {
        Action.DISCARD, Action.SWEEP, Action.POWER_DOWN, Action.SWITCH_OFF, Action.ISOLATE, Action.PAUSE,
        Action.RESUME, Action.RECORD_POWER_OFF,
    }
)  # fmt: skip
COMMITS = {Action.GO_ALONE: "alone", Action.PROMOTE: "promote", Action.MARK: "mark"}


def is_news(world: World, h: int, found: Decision) -> bool:
    """Whether a pass would change anything (supervisor._dispatch)."""
    agent = world.hosts[h].agent
    job, action = agent.job, found.action
    if action is Action.HOLD:
        return False
    if job is not None and is_same_work(action, job.action):
        return False
    if job is not None and (job.action in UNDISTURBED or _is_own_doing(agent, job, found)):
        return False
    return action is Action.NOTE or action is not agent.failed or agent.due


def _is_own_doing(agent: Agent, job: Job, found: Decision) -> bool:
    """supervisor._is_own_doing."""
    if job.action is Action.MARK:
        return found.row.to is State.P_LOCKSTEP
    is_calling_off = agent.mem.stage is CopyStage.LEAVING and job.action in CALLS_OFF
    return is_calling_off and found.action in (Action.LEAVE, Action.GO_ALONE)


def do_pass(world: World, h: int, found: Decision) -> World:
    """One pass that changes something: note a state, or begin a job, after giving up another one."""
    world = give_up(world, h)
    if found.action is Action.NOTE:
        return _note(world, h, found)
    agent = world.hosts[h].agent
    rec, wish = agent.mirror.rec, agent.mirror.wish
    if found.action not in WITHOUT_PAIR and (rec is None or wish is None):
        return world
    probe = found.row.event in (Event.STALLED, Event.STALLED_LATER)
    restarts = wish.restarts if wish else 0
    return world.agent(h, job=Job(found.action, 0, rec, probe=probe, restarts=restarts))


def give_up(world: World, h: int) -> World:
    """Cancel the job (`_cancel_job`): a commit may be on its way, a process that was being made is ended."""
    agent = world.hosts[h].agent
    job = agent.job
    if job is None:
        return world
    world = world.agent(h, job=None)
    if job.planned:
        world = switch_given_up(world, h, job)
    if job.action in (Action.START, Action.PREPARE) and job.at > 1:
        return end_process(world, h)
    if (
        job.action is Action.ENTER
        and agent.mem.stage is CopyStage.ENTERING
        and kept("a cancelled entry is undone")
    ):
        return world.mem(h, stage=CopyStage.LEAVING)
    kind = COMMITS.get(job.action)
    is_sent = kind is not None and job.at == (1 if job.action is Action.PROMOTE else 0)
    if is_sent and job.rec is not None and network.store_answers(world, h):
        after = following(kind, job.rec.body)
        if after is not None:
            request = f"{HOSTS[h]}/{job.rec.rev}/{agent.attempt}"
            world = leave_in_flight(world.agent(h, attempt=agent.attempt + 1), h, job.rec, after, request)
    return world


def switch_given_up(world: World, h: int, job: Job) -> World:
    """Handover._give_up: what was held back goes where it would have gone. The primary lifts its fence by itself."""
    process = world.hosts[h].qemu
    if job.at > 1 or process is None or process.hung or process.hold not in (CLEAN, TORN):
        return world
    return world.qemu(h, hold="")


def _note(world: World, h: int, found: Decision) -> World:
    to = found.row.to
    if to is State.S_LOCKSTEP:  # secondary.lockstep_noted
        disk = world.hosts[h].disk
        if disk is not None and kept("in sync is written to the disk"):
            world = world.host(h, disk=disk._replace(state="clean"))
        return world.save(h, stage=CopyStage.LOCKSTEP)
    world = world.save(h, stage=STAGES[to])
    return end_process(world, h) if to in (State.P_DEAD, State.S_DEAD) else world


def end_process(world: World, h: int) -> World:
    """Copy.end_process."""
    world = qemu.killed(world, h)
    return world.agent(h, colo_ended=False, reset=False, off=False, seen=0, stall=0, fence=0)


def discard(world: World, h: int) -> World:
    """Copy.discard: the process, its taps, the folder."""
    world = end_process(world, h)
    highest = world.hosts[h].agent.mem.highest
    world = world.agent(h, mem=Saved(highest=highest))
    return world.host(h, saved=None, disk=None)
