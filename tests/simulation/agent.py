"""An agent: what it knows (hostagent/supervisor/view.py), what it decides with the real `decide`
(supervisor.py `_pass`, `_dispatch`, `_note`), what it finds after a restart (adoption.py)."""

from __future__ import annotations

from functools import lru_cache

from tests.simulation import network, qemu
from tests.simulation.rules import kept, remembers
from tests.simulation.store import endophyte_of, following, is_possible, leave_in_flight, pair_of, uid_of
from tests.simulation.world import (
    ALONE,
    CLEAN,
    HOSTS,
    NOBODY,
    ON,
    SECONDARY,
    TORN,
    Agent,
    Body,
    Job,
    Saved,
    Store,
    Told,
    Wish,
    World,
)
from vdc.model.endophyte import CopyRole, CopyStage, Observed
from vdc.protection.decide import Decision, decide
from vdc.protection.events import Event
from vdc.protection.snapshot import CopyView, PeerView, Snapshot
from vdc.protection.table import Action, State

IN_LOCKSTEP = (CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP)
OVER = (CopyStage.ABSENT, CopyStage.DEAD, CopyStage.FAILED)
WITHOUT_PAIR = frozenset(
    {
        Action.DISCARD, Action.SWEEP, Action.POWER_DOWN, Action.SWITCH_OFF, Action.ISOLATE, Action.PAUSE,
        Action.RESUME, Action.RECORD_POWER_OFF,
    }
)  # fmt: skip
CALLS_OFF = (Action.ENTER, Action.ADOPT_EPOCH)
UNDISTURBED = frozenset(
    {Action.POWER_DOWN, Action.SWITCH_OFF, Action.DISCARD, Action.SWEEP, Action.PAUSE, Action.RESUME}
)
SAME_WORK = {
    Action.TAKE_OVER: Action.PROMOTE,
    Action.LEAVE: Action.GO_ALONE,
    Action.ADOPT_EPOCH: Action.GO_ALONE,
}
COMMITS = {Action.GO_ALONE: "alone", Action.PROMOTE: "promote", Action.MARK: "mark"}
STAGES = {
    State.P_DEAD: CopyStage.DEAD,
    State.S_DEAD: CopyStage.DEAD,
    State.S_FAILED: CopyStage.FAILED,
    State.S_CHECKPOINTING: CopyStage.CHECKPOINTING,
    State.S_LOCKSTEP: CopyStage.LOCKSTEP,
    State.P_LOCKSTEP: CopyStage.LOCKSTEP,
}
_SILENCE_MS = (
    0.0,
    300.0,
    500.0,
    9_000.0,
)  # heard, suspected, beyond the head start, beyond isolated_pause_ms
_STORE_MS = (0.0, 3_000.0, 9_000.0)
_STALL_MS = (0.0, 2_100.0, 2_600.0)


@lru_cache(200_000)
def _decide(
    me: int, wish: Wish | None, body: Body | None, copy: tuple, peer: tuple, told: Told | None, store: int
) -> Decision:
    role, stage, epoch, alive, files, restarts, ended, seen, stall, reset, off, due = copy
    peer_host = NOBODY
    if body is not None and me in (body.primary, body.secondary):
        peer_host = body.secondary if body.primary == me else body.primary
    observed = None
    if told is not None and peer_host != NOBODY:
        observed = Observed(
            name="web", host=HOSTS[peer_host], uid=uid_of(told.uid), epoch=told.epoch, role=told.role,
            stage=told.stage, error="trouble" if told.error else "", listening_epoch=told.listening,
        )  # fmt: skip
    management, replication, says_dead = peer
    return decide(
        Snapshot(
            me=HOSTS[me],
            endophyte=endophyte_of(wish) if wish else None,
            pair=pair_of(body) if body else None,
            copy=CopyView(
                role=role, stage=stage, epoch=epoch, alive=alive, has_files=files, restarts=restarts,
                colo_ended=ended, checkpoints=seen, lockstep_for_s=3.0 if seen >= 3 else 0.5 if seen else 0.0,
                stalled_ms=_STALL_MS[stall], guest_reset=reset, powered_off=off, retry_due=due,
            ),
            peer=PeerView(
                management_silent_ms=_SILENCE_MS[management], replication_silent_ms=_SILENCE_MS[replication],
                copy_dead=says_dead,
            ),
            peer_observed=observed,
            store_silent_ms=_STORE_MS[store],
        )
    )  # fmt: skip


remembers(_decide.cache_clear)


def peer_of(body: Body | None, h: int) -> int:
    """The host of the other copy."""
    if body is None or h not in (body.primary, body.secondary):
        return NOBODY
    return body.secondary if body.primary == h else body.primary


def known_body(agent: Agent) -> Body | None:
    """The record as the mirror shows it, where it is this VM's."""
    rec, wish = agent.mirror.rec, agent.mirror.wish
    if rec is None or (wish is not None and rec.body.uid != wish.uid):
        return None
    return rec.body


def decision(world: World, h: int) -> Decision:
    """view.snapshot, then the real decide."""
    host = world.hosts[h]
    agent = host.agent
    mem, wish, body = agent.mem, agent.mirror.wish, known_body(agent)
    is_other = body is not None and mem.uid not in (0, body.uid)
    role = mem.role
    if is_other:
        role = CopyRole.SECONDARY if body.primary == h else CopyRole.PRIMARY
    copy = (
        role, mem.stage, 0 if is_other else mem.epoch, host.qemu is not None and not is_other,
        host.saved is not None or host.disk is not None, mem.restarts, agent.colo_ended, agent.seen,
        agent.stall if mem.stage in IN_LOCKSTEP else 0, agent.reset, agent.off, agent.due,
    )  # fmt: skip
    peer = peer_of(body, h)
    silence, told = (0, 0, False), None
    if peer != NOBODY:
        says_dead = (peer, body.uid, body.epoch) in agent.heard
        silence = (*agent.silence[1:], says_dead) if agent.silence[0] == peer else (0, 0, says_dead)
        told = agent.mirror.told[peer]
        if told is not None and (wish is None or told.uid != wish.uid):
            told = None
    return _decide(h, wish, body, copy, silence, told, agent.store_silent)


def is_news(world: World, h: int, found: Decision) -> bool:
    """Whether a pass would change anything (supervisor._dispatch)."""
    agent = world.hosts[h].agent
    job, action = agent.job, found.action
    if action is Action.HOLD:
        return False
    if job is not None and SAME_WORK.get(action, action) == SAME_WORK.get(job.action, job.action):
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


def start_agent(world: World, h: int) -> World:
    """A new agent process has read the records: its memory is what was saved, its mirror is current."""
    saved = world.hosts[h].saved or Saved()
    return world.host(h, agent=Agent(saved, world.store))


def adopt(world: World, h: int) -> World:
    """adoption.take_over_after_restart."""
    host = world.hosts[h]
    mem, process = host.agent.mem, host.qemu
    world = world.agent(h, unread=False)
    if not mem.uid:
        return world
    is_preparing = mem.role is CopyRole.SECONDARY and mem.stage is CopyStage.PREPARING
    if process is None and is_preparing:
        return _prepare_again(world, h)
    if process is None:
        if mem.role is not None and mem.stage not in OVER:
            world = world.save(h, stage=CopyStage.DEAD)
        mem = world.hosts[h].agent.mem
        if mem.role is not None and mem.stage is CopyStage.DEAD:
            world = world.agent(h, dead=world.hosts[h].agent.dead | {(mem.uid, mem.epoch)})
        return world
    if not kept("adoption spares the guest"):
        return end_process(world, h)
    if is_preparing:
        return _prepare_again(world, h)
    if process.hung:  # QEMU does not answer; the guest is left as it is, and looked at again later
        return _unanswered(world.agent(h, unread=kept("adoption looks again")), h)
    is_colo = process.mode == "primary" or process.mode == SECONDARY
    stage = mem.stage
    if is_colo and stage in IN_LOCKSTEP:
        world = _switch_after_restart(world, h)
    if mem.role is CopyRole.SECONDARY:
        if stage in IN_LOCKSTEP and not is_colo:
            world = world.agent(h, colo_ended=True)
    elif stage is CopyStage.PREPARING:
        stage = CopyStage.RUNNING if process.running and mem.machine else CopyStage.DEAD
    elif stage is CopyStage.ENTERING:
        stage = CopyStage.CHECKPOINTING if is_colo else CopyStage.LEAVING
    elif stage is CopyStage.RUNNING and not process.running and not process.off:
        stage = CopyStage.PAUSED
    elif stage is CopyStage.PAUSED and process.running:
        stage = CopyStage.RUNNING
    if process.off:
        world = world.agent(h, off=True, reset=True)
    if stage in (CopyStage.DEAD, CopyStage.FAILED):
        world = end_process(world, h)
    return world if stage is mem.stage else world.save(h, stage=stage)


def _prepare_again(world: World, h: int) -> World:
    """adoption._prepare_again: under the same epoch, for nobody was told that the copy is ready."""
    return end_process(world, h).save(h, role=None, stage=CopyStage.ABSENT)


def _unanswered(world: World, h: int) -> World:
    """adoption._unanswered, of a primary."""
    stage = world.hosts[h].agent.mem.stage
    if stage is CopyStage.PREPARING:
        return end_process(world, h).agent(h, unread=False).save(h, stage=CopyStage.DEAD)
    return world.save(h, stage=CopyStage.LEAVING) if stage is CopyStage.ENTERING else world


def _switch_after_restart(world: World, h: int) -> World:
    """handover.after_restart: what is left of a planned switch. A fence stays where a newer epoch is in force."""
    host = world.hosts[h]
    mem, rec, process = host.agent.mem, host.agent.mirror.rec, host.qemu
    if mem.role is CopyRole.SECONDARY:
        return world.qemu(h, hold="") if process.hold in (CLEAN, TORN) else world
    is_lost = rec is not None and rec.body.epoch > mem.epoch
    if process.fence <= 0 or (is_lost and kept("a lost epoch stays fenced")):
        return world
    return world.qemu(h, fence=0 if is_lost else -process.fence)


def published(world: World, h: int) -> Told | None:
    """What the agent wants the others to see of its copy (view.observed)."""
    agent = world.hosts[h].agent
    mem = agent.mem
    uid = mem.uid or (agent.mirror.wish.uid if agent.mirror.wish else 0)
    if not uid or (not mem.uid and agent.mirror.wish is None):
        return None
    return Told(uid, mem.epoch, mem.role, mem.stage, mem.listening, agent.failed is not None, mem.restarts)


def is_stalled(world: World, h: int) -> bool:
    """Whether no checkpoint completes for a copy that should be in lockstep."""
    process = world.hosts[h].qemu
    if process is None or world.hosts[h].agent.mem.stage not in IN_LOCKSTEP or process.mode == ALONE:
        return False
    primary = h if process.mode == "primary" else process.peer
    if primary == NOBODY or not (world.hosts[primary].qemu and world.hosts[primary].power == ON):
        return True
    if world.hosts[primary].qemu.fence > 0:  # it makes no checkpoint meanwhile
        return True
    return qemu.partner(world, primary) == NOBODY or world.hosts[primary].qemu.hung


def settle(world: World) -> World:
    """What follows from a step by itself: news arrive, silence ends, copies age, dead requests are dropped."""
    world = qemu.age_disks(world)
    if world.flights:
        alive = tuple(f for f in world.flights if is_possible(world, f))
        if alive != world.flights:
            world = world._replace(flights=alive)
    world = _publish(world)
    answers_to = network.links(world).answers
    for h, host in enumerate(world.hosts):
        agent = host.agent
        if agent is None or host.power != ON or agent.slow:
            continue
        changes = {}
        answers = answers_to[h]
        if answers and not agent.deaf and agent.mirror != world.store:
            changes["mirror"] = world.store
        if answers and agent.store_silent:
            changes["store_silent"] = 0
        if agent.stall and not is_stalled(world, h):
            changes["stall"] = 0
        peer = peer_of(known_body(agent), h)
        if agent.silence != (NOBODY, 0, 0):
            silence = _silence(world, h, agent, peer)
            if silence != agent.silence:
                changes["silence"] = silence
        heard = _heard(world, h, agent)
        if heard != agent.heard:
            changes["heard"] = heard
        if changes:
            world = world.agent(h, **changes)
    return world


def _publish(world: World) -> World:
    store: Store = world.store
    for h, host in enumerate(world.hosts):
        agent = host.agent
        if agent is None or agent.slow or agent.mute or host.power != ON or world.store.wish is None:
            continue
        told = published(world, h)
        if told is not None and told != store.told[h] and network.store_answers(world, h):
            store = store._replace(told=(*store.told[:h], told, *store.told[h + 1 :]))
    return world if store is world.store else world._replace(store=store)


def _silence(world: World, h: int, agent: Agent, peer: int) -> tuple[int, int, int]:
    of, management, replication = agent.silence
    if of != peer or peer == NOBODY:
        return (NOBODY, 0, 0)
    management = management if not network.serves(world, h, peer, network.MANAGEMENT) else 0
    replication = replication if not network.serves(world, h, peer, network.REPLICATION) else 0
    return (peer, management, replication) if management or replication else (NOBODY, 0, 0)


def _heard(world: World, h: int, agent: Agent) -> frozenset[tuple[int, int, int]]:
    heard = agent.heard
    for other, host in enumerate(world.hosts):
        if (
            other != h
            and host.agent is not None
            and (host.agent.dead or heard)
            and network.heartbeat(world, h, other)
        ):
            kept_ones = {claim for claim in heard if claim[0] != other}
            heard = frozenset(kept_ones | {(other, *claim) for claim in host.agent.dead})
    return heard
