"""Steps of lockstep on the primary's side: a new epoch is adopted, lockstep is entered, called off or left."""

from __future__ import annotations

from tests.simulation.commits import commit, remember, remember_alone
from tests.simulation.network import REPLICATION, connected
from tests.simulation.outcomes import Outcome, StepFn, failed, on, over
from tests.simulation.rules import kept
from tests.simulation.view import known_body
from tests.simulation.world import ALONE, HOSTS, NOBODY, PRIMARY, SECONDARY, WAITING, Job, World
from vdc.model.endophyte import CopyStage
from vdc.protection.table import Action


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
    at = ENTRIES[job.action].index(call_off_leave)
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


# They may be called off in the middle: `_calls_off` goes on at `call_off_leave`.
ENTRIES: dict[Action, tuple[StepFn, ...]] = {
    Action.ADOPT_EPOCH: (
        adopt_leave, adopt_disks, adopt_open, adopt_done, call_off_leave, commit, call_off_done,
    ),
    Action.ENTER: (
        enter_begins, enter_qemu, enter_done, call_off_leave, commit, call_off_done,
    ),
}  # fmt: skip
