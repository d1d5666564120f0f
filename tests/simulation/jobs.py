"""The actions of the table as lists of steps, in the order in which hostagent/supervisor/{primary,secondary,
copy,supervisor}.py take them. Between any two of them the agent may die, be paused or change its mind.

`SOURCES` ties each list to the code: a unit test checks that what it names stands there in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.simulation import store
from tests.simulation.agent import CALLS_OFF, COMMITS, discard, end_process, known_body, switch_given_up
from tests.simulation.network import REPLICATION, connected, store_answers
from tests.simulation.rules import kept
from tests.simulation.world import (
    ALONE,
    HOSTS,
    NOBODY,
    PRIMARY,
    SECONDARY,
    WAITING,
    Disk,
    Job,
    Qemu,
    World,
)
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.protection.table import Action


class Outcome(NamedTuple):
    """What one step may lead to. `cost` is 1 where something has to go wrong for it."""

    cost: int
    text: str
    world: World


StepFn = Callable[[World, int, Job], list[Outcome]]
URGENT = (Action.PROMOTE, Action.TAKE_OVER, Action.GO_ALONE, Action.LEAVE, Action.MARK)


# ---- how a step ends


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


# ---- the compare-and-swap


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


# ---- power


def start_begins(world: World, h: int, job: Job) -> list[Outcome]:
    body = job.rec.body
    world = end_process(world, h)
    agent = world.hosts[h].agent
    world = world.agent(h, dead=frozenset(claim for claim in agent.dead if claim[0] != body.uid))
    world = world.save(
        h, uid=body.uid, role=CopyRole.PRIMARY, stage=CopyStage.PREPARING, epoch=body.epoch,
        restarts=job.restarts, plan=0, listening=0,
    )  # fmt: skip
    return on(world, h, f"{HOSTS[h]}: begins to start the guest")


def start_disk(world: World, h: int, job: Job) -> list[Outcome]:
    body, disk, name = job.rec.body, world.hosts[h].disk, HOSTS[h]
    if body.epoch == 1 and (disk is None or disk.state == "new"):
        if disk is None:
            world = world.host(h, disk=Disk(body.uid, 1, "new", fresh=True))
            return [Outcome(0, f"{name}: begins to make the disks", world)]
        return on(world.host(h, disk=disk._replace(state="clean")), h, f"{name}: the new disks are complete")
    if disk is None:
        return failed(world, h, f"{name}: there are no disks here")
    if disk.uid != body.uid or (disk.state in ("dirty", "new") and kept("dirty is not bootable")):
        return failed(world, h, f"{name}: the disks here may not be booted")
    if disk.state == "unsettled":
        world = world.host(h, disk=disk._replace(state="clean", hidden=False))
    return on(world, h, f"{name}: the disks may be booted")


def start_qemu(world: World, h: int, job: Job) -> list[Outcome]:
    body = job.rec.body
    process, disk = Qemu(0, body.uid, ALONE, body.epoch, tap=True), world.hosts[h].disk
    world = world.host(h, disk=disk._replace(fresh=disk.fresh and not disk.hidden, hidden=False))
    return on(world.host(h, qemu=process), h, f"{HOSTS[h]}: QEMU is started, the guest boots")


def start_done(world: World, h: int, job: Job) -> list[Outcome]:
    world = over(world.save(h, stage=CopyStage.RUNNING, machine=True), h)
    return [Outcome(0, f"{HOSTS[h]}: notes that the guest runs", world)]


def power_down(world: World, h: int, job: Job) -> list[Outcome]:
    text = f"{HOSTS[h]}: the guest is powered down"
    return on(end_process(world, h), h, text)


def switched_off(world: World, h: int, job: Job) -> list[Outcome]:
    world = world.save(h, role=None, stage=CopyStage.ABSENT, plan=0, listening=0)
    return [Outcome(0, f"{HOSTS[h]}: notes that the guest is off", over(world, h))]


def lingers(world: World, h: int) -> bool:
    """handover.linger: an old primary that is mute for a switch still passes on what comes to it."""
    agent = world.hosts[h].agent
    rec = agent.mirror.rec
    return (
        bool(agent.fence)
        and world.hosts[h].qemu is not None
        and rec is not None
        and rec.body.epoch == agent.fence + 1
    )


def do_discard(world: World, h: int, job: Job) -> list[Outcome]:
    if lingers(world, h):
        return []
    killed = world.hosts[h].qemu is not None
    if killed and world.hosts[h].qemu.tap:
        return [
            Outcome(
                0,
                f"{HOSTS[h]}: takes its copy's tap off the bridge",
                world.qemu(h, tap=False).agent(h, fence=0),
            )
        ]
    if killed and not kept("a stray is killed"):
        process = world.hosts[h].qemu
        return [
            Outcome(0, f"{HOSTS[h]}: removes the files", over(discard(world, h), h).host(h, qemu=process))
        ]
    if killed:
        return [Outcome(0, f"{HOSTS[h]}: ends its copy", end_process(world, h))]
    return [Outcome(0, f"{HOSTS[h]}: removes the files of its copy", over(discard(world, h), h))]


def power_off_noted(world: World, h: int, job: Job) -> list[Outcome]:
    wish, name = world.store.wish, HOSTS[h]
    if not store_answers(world, h) or wish is None or world.hosts[h].agent.mirror.wish != wish:
        return failed(world, h, f"{name}: cannot note that the guest powered itself off")
    world = store.put(world, world.store.rec, wish=wish._replace(run="stopped"))
    return [Outcome(0, f"{name}: notes that the guest powered itself off", over(world, h))]


def _stop_guest(word: str) -> StepFn:
    def step(world: World, h: int, job: Job) -> list[Outcome]:
        if world.hosts[h].qemu is None or world.hosts[h].qemu.hung:
            return failed(world, h, f"{HOSTS[h]}: QEMU does not answer")
        return on(world.qemu(h, running=word == "runs"), h, f"{HOSTS[h]}: QEMU is told; the guest {word}")

    return step


def sever(world: World, h: int, job: Job) -> list[Outcome]:
    """primary.isolate: the connections to the secondary are broken, the gate stays shut."""
    process = world.hosts[h].qemu
    if process is None or process.hung:
        return failed(world, h, f"{HOSTS[h]}: QEMU does not answer")
    if process.mode == PRIMARY:
        world = world.qemu(h, plan=0)
    return on(world, h, f"{HOSTS[h]}: breaks off with the silent secondary")


def _noted(stage: CopyStage) -> StepFn:
    def step(world: World, h: int, job: Job) -> list[Outcome]:
        return [Outcome(0, f"{HOSTS[h]}: notes {stage}", over(world.save(h, stage=stage), h))]

    return step


# ---- lockstep, the primary's side


def adopt_leave(world: World, h: int, job: Job) -> list[Outcome]:
    mem, body, process, name = world.hosts[h].agent.mem, job.rec.body, world.hosts[h].qemu, HOSTS[h]
    if kept("epoch on disk first"):
        world = remember_alone(world, h, body.epoch)
    if mem.plan and mem.plan != body.epoch:
        if process is None or process.hung:
            return failed(world, h, f"{name}: QEMU does not answer")
        world = world.qemu(h, mode=ALONE, plan=0, peer=NOBODY, epoch=body.epoch, fence=0)
    return on(world, h, f"{name}: nothing of an older lockstep is left in QEMU")


def adopt_disks(world: World, h: int, job: Job) -> list[Outcome]:
    body = job.rec.body
    world = _renew(world, h, body.epoch)
    if body.secondary != NOBODY:
        return on(world.save(h, plan=body.epoch, listening=0), h, f"{HOSTS[h]}: plans the lockstep")
    world = world.save(h, epoch=body.epoch, plan=0, listening=0)
    return [Outcome(0, f"{HOSTS[h]}: acts under epoch {body.epoch} from now on", over(world, h))]


def adopt_open(world: World, h: int, job: Job) -> list[Outcome]:
    body, process = job.rec.body, world.hosts[h].qemu
    if process is None or process.hung:
        return _calls_off(world, h, job, f"{HOSTS[h]}: the channels are not opened")
    return on(world, h, f"{HOSTS[h]}: opens the channels for {HOSTS[body.secondary]}")


def adopt_done(world: World, h: int, job: Job) -> list[Outcome]:
    """The epoch is this copy's own only now: until then the table does all of it again."""
    epoch = job.rec.body.epoch
    world = over(world.save(h, epoch=epoch, listening=epoch), h)
    return [Outcome(0, f"{HOSTS[h]}: acts under epoch {epoch} from now on", world)]


def _renew(world: World, h: int, epoch: int) -> World:
    disk = world.hosts[h].disk
    return world if disk is None else world.host(h, disk=disk._replace(epoch=epoch))


def _calls_off(world: World, h: int, job: Job, text: str) -> list[Outcome]:
    """primary._call_off begins: the table finishes it, whatever fails."""
    world = world.mem(h, stage=CopyStage.LEAVING)
    at = steps_of(job.action).index(call_off_leave)
    return [Outcome(0, text, world.agent(h, job=job._replace(at=at)))]


def enter_begins(world: World, h: int, job: Job) -> list[Outcome]:
    world = world.save(h, stage=CopyStage.ENTERING).agent(h, colo_ended=False, reset=False)
    return on(world, h, f"{HOSTS[h]}: begins to copy disk and memory")


def enter_qemu(world: World, h: int, job: Job) -> list[Outcome]:
    body, mine = job.rec.body, world.hosts[h].qemu
    s = body.secondary
    other = world.hosts[s].qemu
    able = (
        mine is not None and not mine.hung and other is not None and other.mode == WAITING and not other.hung
        and other.plan == body.epoch and connected(world, h, s, REPLICATION)
    )  # fmt: skip
    if not able:
        return _calls_off(world, h, job, f"{HOSTS[h]}: lockstep is not reached")
    epoch = body.epoch
    world = world.qemu(h, mode=PRIMARY, plan=epoch, peer=s)
    world = world.qemu(s, mode=SECONDARY, peer=h, epoch=epoch)
    disk = world.hosts[s].disk
    if disk is not None:
        world = world.host(s, disk=disk._replace(fresh=world.hosts[h].disk.fresh))
    return on(world, h, f"{HOSTS[h]}: memory is copied, both are in lockstep")


def enter_done(world: World, h: int, job: Job) -> list[Outcome]:
    world = world.save(h, stage=CopyStage.CHECKPOINTING).agent(h, seen=0)
    return [Outcome(0, f"{HOSTS[h]}: notes the lockstep", over(world, h))]


def call_off_leave(world: World, h: int, job: Job) -> list[Outcome]:
    process = world.hosts[h].qemu
    if process is None or process.hung:
        return failed(world, h, f"{HOSTS[h]}: QEMU does not answer")
    return on(
        world.qemu(h, mode=ALONE, plan=0, peer=NOBODY, fence=0), h, f"{HOSTS[h]}: takes the filters out again"
    )


def call_off_done(world: World, h: int, job: Job) -> list[Outcome]:
    epoch = world.hosts[h].agent.mirror.rec.body.epoch
    world = over(world.save(h, stage=CopyStage.RUNNING, epoch=epoch, plan=0, listening=0), h)
    return [Outcome(0, f"{HOSTS[h]}: notes that it runs alone", world)]


def mark_done(world: World, h: int, job: Job) -> list[Outcome]:
    return [Outcome(0, f"{HOSTS[h]}: notes lockstep", over(world.save(h, stage=CopyStage.LOCKSTEP), h))]


def alone_won(world: World, h: int, job: Job) -> list[Outcome]:
    """primary.alone after the commit: a running guest goes on to `leave`, a dead one is noted."""
    rec, mem = world.hosts[h].agent.mirror.rec, world.hosts[h].agent.mem
    epoch = rec.body.epoch if rec else mem.epoch
    if world.hosts[h].qemu is not None:
        world = world.mem(h, epoch=epoch, stage=CopyStage.LEAVING)
        job = Job(Action.GO_ALONE, job.at + 1, rec)
        return [Outcome(0, f"{HOSTS[h]}: leaves lockstep", world.agent(h, job=job))]
    if mem.role is not None:
        world = world.save(h, epoch=epoch, stage=CopyStage.DEAD, plan=0, listening=0)
    return [Outcome(0, f"{HOSTS[h]}: notes that it is alone, and that its copy is dead", over(world, h))]


def leave_remember(world: World, h: int, job: Job) -> list[Outcome]:
    """The epoch is on this host's disk before QEMU is told anything in its name (I2)."""
    epoch = job.rec.body.epoch
    if kept("leaving remembers first"):
        world = remember(world, h, "alone", epoch)
    return on(world, h, f"{HOSTS[h]}: epoch {epoch} is on its disk")


def leave_qemu(world: World, h: int, job: Job) -> list[Outcome]:
    agent, process = world.hosts[h].agent, world.hosts[h].qemu
    body = known_body(agent) if not kept("commit before QEMU") else job.rec.body
    leaving = CopyStage.LEAVING if kept("leaving goes on") else agent.mem.stage
    world = world.mem(h, epoch=body.epoch, stage=leaving)
    if process is None or process.hung:
        return failed(world, h, f"{HOSTS[h]}: QEMU does not answer")
    wish = agent.mirror.wish
    runs = (wish is None or wish.run != "paused") and not agent.off
    epoch = body.epoch if kept("commit before QEMU") else body.epoch + 1
    world = world.qemu(
        h, mode=ALONE, plan=0, peer=NOBODY, epoch=epoch, running=runs or (process.running and not agent.off),
        fence=0,
    )  # fmt: skip
    return on(world, h, f"{HOSTS[h]}: QEMU leaves lockstep, its gate is open")


def leave_done(world: World, h: int, job: Job) -> list[Outcome]:
    epoch = world.hosts[h].agent.mem.epoch
    world = world.agent(h, seen=0, stall=0, colo_ended=False, reset=False)
    world = world.save(h, stage=CopyStage.RUNNING, epoch=epoch, plan=0, listening=0)
    return [Outcome(0, f"{HOSTS[h]}: notes that it runs alone", over(world, h))]


def leave_renew(world: World, h: int, job: Job) -> list[Outcome]:
    world = _renew(world, h, world.hosts[h].agent.mem.epoch)
    return on(world, h, f"{HOSTS[h]}: the disks are of the new epoch")


# ---- the secondary's side


def prepare_discard(world: World, h: int, job: Job) -> list[Outcome]:
    uid = job.rec.body.uid
    world = discard(world, h)
    dead = frozenset(claim for claim in world.hosts[h].agent.dead if claim[0] != uid)
    return on(world.agent(h, dead=dead), h, f"{HOSTS[h]}: removes what is left of an older copy")


def prepare_begins(world: World, h: int, job: Job) -> list[Outcome]:
    body = job.rec.body
    world = world.save(h, uid=body.uid, role=CopyRole.SECONDARY, stage=CopyStage.PREPARING, epoch=body.epoch)
    return on(world, h, f"{HOSTS[h]}: begins to prepare a secondary")


def prepare_waits(world: World, h: int, job: Job) -> list[Outcome]:
    """secondary._primary_listening: blocked until the mirror shows the primary's channels."""
    body = job.rec.body
    told = world.hosts[h].agent.mirror.told[body.primary]
    if told is None or told.listening != body.epoch:
        return []
    world = world.host(h, disk=Disk(body.uid, body.epoch, "dirty", fresh=False))
    return on(world, h, f"{HOSTS[h]}: makes empty disks")


def prepare_qemu(world: World, h: int, job: Job) -> list[Outcome]:
    body = job.rec.body
    process = Qemu(
        0, body.uid, WAITING, body.epoch, plan=body.epoch, peer=body.primary,
        tap=not kept("tap live after the commit"),
    )  # fmt: skip
    return on(world.host(h, qemu=process), h, f"{HOSTS[h]}: starts QEMU, which waits for the memory")


def prepare_done(world: World, h: int, job: Job) -> list[Outcome]:
    world = world.save(h, stage=CopyStage.READY, plan=job.rec.body.epoch, machine=True)
    return [Outcome(0, f"{HOSTS[h]}: notes that it is ready", over(world, h))]


def promote_begins(world: World, h: int, job: Job) -> list[Outcome]:
    return on(world, h, f"{HOSTS[h]}: is told to take over without asking")


def take_over_remember(world: World, h: int, job: Job) -> list[Outcome]:
    """What the commit's own agent may have died before: the epoch, and where the newest writes are."""
    epoch, disk = job.rec.body.epoch, world.hosts[h].disk
    if not kept("a take-over remembers first"):
        return on(world, h, f"{HOSTS[h]}: takes over")
    kind = "promote" if disk is not None and disk.epoch < epoch else "alone"
    return on(remember(world, h, kind, epoch), h, f"{HOSTS[h]}: epoch {epoch} is on its disk")


def speak_qemu(world: World, h: int, job: Job) -> list[Outcome]:
    agent, process = world.hosts[h].agent, world.hosts[h].qemu
    body = known_body(agent) or job.rec.body
    if process is None or process.hung or not agent.mem.plan:
        return failed(world, h, f"{HOSTS[h]}: QEMU does not answer")
    epoch = body.epoch if kept("commit before QEMU") else max(body.epoch, job.rec.body.epoch + 1)
    disk = world.hosts[h].disk
    if process.mode != ALONE and disk is not None and disk.state != "unsettled":
        world = world.host(h, disk=disk._replace(hidden=True))
    world = world.mem(h, role=CopyRole.PRIMARY, stage=CopyStage.PROMOTING, epoch=epoch)
    first = Outcome(1, f"{HOSTS[h]}: the guest's tap is first to join the bridge", world.qemu(h, tap=True))
    world = world.qemu(h, mode=ALONE, plan=0, peer=NOBODY, running=True, epoch=epoch, hold="")
    spoken = on(world, h, f"{HOSTS[h]}: QEMU leaves lockstep as the new primary")
    return spoken if process.tap or not kept("commit before QEMU") else [*spoken, first]


def speak_tap(world: World, h: int, job: Job) -> list[Outcome]:
    if world.hosts[h].qemu is None:
        return failed(world, h, f"{HOSTS[h]}: QEMU has ended")
    return on(world.qemu(h, tap=True), h, f"{HOSTS[h]}: the guest's tap joins the bridge")


def speak_save(world: World, h: int, job: Job) -> list[Outcome]:
    return on(world.save(h), h, f"{HOSTS[h]}: notes that it is the primary")


def tidy(world: World, h: int, job: Job) -> list[Outcome]:
    host = world.hosts[h]
    if host.qemu is None or host.qemu.hung:
        return failed(world, h, f"{HOSTS[h]}: QEMU does not answer")
    world = world.agent(h, colo_ended=False, reset=False, seen=0, stall=0)
    if host.disk is not None:
        world = world.host(h, disk=host.disk._replace(state="clean", hidden=False))
    return on(world, h, f"{HOSTS[h]}: writes the layers back into its disks")


def tidy_done(world: World, h: int, job: Job) -> list[Outcome]:
    world = world.save(h, stage=CopyStage.RUNNING, plan=0, listening=0)
    return [Outcome(0, f"{HOSTS[h]}: notes that it runs alone", over(world, h))]


def inherit(world: World, h: int, job: Job) -> list[Outcome]:
    world = end_process(world, h)
    world = world.save(h, role=CopyRole.PRIMARY, stage=CopyStage.DEAD, epoch=job.rec.body.epoch, plan=0)
    world = over(world, h)
    return [Outcome(0, f"{HOSTS[h]}: notes that it is the primary, and that its copy is dead", world)]


A = Action
_LEAVE = (leave_remember, leave_qemu, leave_renew, leave_done)
_SPEAK = (speak_qemu, speak_tap, speak_save, tidy, tidy_done)
_GO_ALONE = (commit, durable, alone_won, leave_qemu, leave_renew, leave_done)
_PROMOTE = (promote_begins, commit, durable, *_SPEAK)
STEPS: dict[Action, tuple[StepFn, ...]] = {
    A.START: (start_begins, start_disk, start_qemu, start_done),
    A.ADOPT_EPOCH: (adopt_leave, adopt_disks, adopt_open, adopt_done, call_off_leave, commit, call_off_done),
    A.ENTER: (
        enter_begins, enter_qemu, enter_done, call_off_leave, commit, call_off_done,
    ),
    A.MARK: (commit, mark_done),
    A.GO_ALONE: _GO_ALONE,
    A.LEAVE: _LEAVE,
    A.PREPARE: (prepare_discard, prepare_begins, prepare_waits, prepare_qemu, prepare_done),
    A.PROMOTE: _PROMOTE,
    A.TAKE_OVER: (take_over_remember, *_SPEAK),
    A.INHERIT: (inherit,),
    A.DISCARD: (do_discard,),
    A.SWEEP: (do_discard,),
    A.POWER_DOWN: (power_down, switched_off),
    A.SWITCH_OFF: (power_down, switched_off),
    A.ISOLATE: (sever, _stop_guest("stands still"), _noted(CopyStage.ISOLATED)),
    A.PAUSE: (_stop_guest("stands still"), _noted(CopyStage.PAUSED)),
    A.RESUME: (_stop_guest("runs"), _noted(CopyStage.RUNNING)),
    A.RECORD_POWER_OFF: (power_off_noted,),
}  # fmt: skip
# The same with QEMU first: what the order of the steps protects from.
_REVERSED = {
    A.GO_ALONE: (leave_qemu, commit, durable, leave_renew, leave_done),
    A.PROMOTE: (promote_begins, *_SPEAK[:2], commit, durable, *_SPEAK[2:]),
}


def steps_of(action: Action, *, planned: bool = False) -> tuple[StepFn, ...]:
    """The list of an action, with the rules that are in force."""
    if planned:
        return switch.steps()
    if not kept("commit before QEMU") and action in _REVERSED:
        return _REVERSED[action]
    return STEPS[action]


def run_step(world: World, h: int) -> list[Outcome]:
    """The next step of the job on host `h`; empty where it has to wait."""
    job = world.hosts[h].agent.job
    return steps_of(job.action, planned=job.planned)[job.at](world, h, job)


from tests.simulation import switch  # noqa: E402 - it is made of the steps above
