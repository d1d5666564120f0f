"""Steps of one copy by itself: its guest is started, ended, paused or isolated, its files are removed."""

from __future__ import annotations

from tests.simulation import store
from tests.simulation.agent import discard, end_process
from tests.simulation.network import store_answers
from tests.simulation.outcomes import Outcome, StepFn, failed, on, over
from tests.simulation.rules import kept
from tests.simulation.world import ALONE, HOSTS, PRIMARY, Disk, Job, Qemu, World
from vdc.model.endophyte import CopyRole, CopyStage


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


def stop_guest(word: str) -> StepFn:
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


def noted(stage: CopyStage) -> StepFn:
    def step(world: World, h: int, job: Job) -> list[Outcome]:
        return [Outcome(0, f"{HOSTS[h]}: notes {stage}", over(world.save(h, stage=stage), h))]

    return step
