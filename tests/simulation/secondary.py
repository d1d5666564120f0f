"""Steps of the secondary's side: a copy is prepared, promoted, and tidied up as the new primary."""

from __future__ import annotations

from tests.simulation.agent import discard, end_process
from tests.simulation.commits import remember
from tests.simulation.outcomes import Outcome, failed, on, over
from tests.simulation.rules import kept
from tests.simulation.view import known_body
from tests.simulation.world import ALONE, HOSTS, NOBODY, WAITING, Disk, Job, Qemu, World
from vdc.model.endophyte import CopyRole, CopyStage


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
