"""A planned switch as two agents carry it out (hostagent/supervisor/handover.py, Supervisor.promote_planned).

S  hold   what its guest sends waits, from a checkpoint on     P  fence  nothing of its guest gets out
-- the commit: until here anything may give it up, and the primary lifts its fence by a timer of its own
S  cut    no checkpoint comes, nothing is agreed to            S  open   its guest speaks
S  leave  lockstep is left
"""

from __future__ import annotations

from tests.simulation import qemu
from tests.simulation.commits import commit, durable
from tests.simulation.network import MANAGEMENT, connected
from tests.simulation.outcomes import Outcome, StepFn, failed, on
from tests.simulation.rules import kept
from tests.simulation.secondary import speak_save, speak_tap, tidy, tidy_done
from tests.simulation.view import IN_LOCKSTEP, known_body
from tests.simulation.world import (
    ALONE,
    CLEAN,
    ENDED,
    HOSTS,
    NOBODY,
    ON,
    OPEN,
    OPEN_TORN,
    SECONDARY,
    TORN,
    Job,
    World,
)
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.protection.table import Action


def ask_primary(world: World, h: int, job: Job) -> list[Outcome]:
    """Handover.prepare: the primary's agent fences its guest, if the epoch is still the same. From then on the job
    counts as the promotion."""
    p, epoch = job.rec.body.primary, job.rec.body.epoch
    name, other = HOSTS[h], HOSTS[p]
    if not _would_fence(world, h, p, epoch):
        return failed(world, h, f"{name}: {other} does not fence its guest; the switch is off")
    mine = world.hosts[h].qemu
    told = world.hosts[h].agent.job._replace(action=Action.PROMOTE)
    world = world.qemu(p, fence=epoch).agent(p, fence=epoch)
    unheard = failed(world, h, f"{name}: {other} fences its guest, and the answer comes too late")
    world = world.agent(h, job=told)
    late = on(world.qemu(h, hold=TORN), h, f"{other} fences its guest; {name} held nothing back in time")
    outcomes = [*unheard, *late]
    outcomes = [one._replace(cost=1) for one in outcomes]
    if mine.hung:
        return unheard
    held = on(world.qemu(h, hold=CLEAN), h, f"{other} fences its guest; what {name} sends is held back")
    return [*held, *outcomes]


def _would_fence(world: World, h: int, p: int, epoch: int) -> bool:
    """Supervisor.quiesce, handover.fence: by the newest epoch that the primary's agent knows of."""
    host, mine = world.hosts[p], world.hosts[h].qemu
    agent, process = host.agent, host.qemu
    if mine is None or mine.mode != SECONDARY or host.power != ON or agent is None or agent.slow:
        return False
    if not connected(world, h, p, MANAGEMENT) or process is None or process.hung:
        return False
    rec, mem = agent.mirror.rec, agent.mem
    is_present = mem.epoch == epoch and (rec is None or rec.body.epoch <= epoch)
    is_able = mem.role is CopyRole.PRIMARY and mem.stage in IN_LOCKSTEP
    return is_present and is_able and (qemu.partner(world, p) == h or mine.hung)


def cut(world: World, h: int, job: Job) -> list[Outcome]:
    """Handover.speak: no checkpoint any more; what is not whole is thrown away, and it goes on as without a plan."""
    agent, process, name = world.hosts[h].agent, world.hosts[h].qemu, HOSTS[h]
    body = known_body(agent) or job.rec.body
    world = world.mem(h, role=CopyRole.PRIMARY, stage=CopyStage.PROMOTING, epoch=body.epoch)
    if process is None or process.hung:
        return failed(world, h, f"{name}: QEMU does not answer")
    is_whole = process.mode in (SECONDARY, ENDED) and process.hold == CLEAN
    if is_whole or (process.mode != ALONE and not kept("only a whole hold is opened")):
        world = world.qemu(h, mode=ENDED, epoch=body.epoch)
        return on(world, h, f"{name}: QEMU takes no checkpoint and agrees to nothing any more")
    world = world.qemu(h, mode=ALONE, plan=0, peer=NOBODY, running=True, epoch=body.epoch, hold="")
    return on(world, h, f"{name}: QEMU leaves lockstep as the new primary, without what it held back")


def open_output(world: World, h: int, job: Job) -> list[Outcome]:
    process, name = world.hosts[h].qemu, HOSTS[h]
    if process is None or process.hung:
        return failed(world, h, f"{name}: QEMU does not answer")
    if process.mode == ALONE:
        return on(world, h, f"{name}: the guest speaks")
    world = world.qemu(h, hold=OPEN_TORN if process.hold == TORN else OPEN)
    return on(world, h, f"{name}: what was held back goes out, and the guest speaks")


def leave(world: World, h: int, job: Job) -> list[Outcome]:
    process, name = world.hosts[h].qemu, HOSTS[h]
    if process is None or process.hung:
        return failed(world, h, f"{name}: QEMU does not answer")
    world = world.qemu(h, mode=ALONE, plan=0, peer=NOBODY, running=True, hold="")
    return on(world, h, f"{name}: QEMU leaves lockstep as the new primary")


def steps() -> tuple[StepFn, ...]:
    """The list, with the rules that are in force."""
    rest = (durable, cut, speak_tap, open_output, speak_save, leave, tidy, tidy_done)
    if not kept("the fence before the commit"):
        return (_begins_as_promotion, commit, *rest[:-3], _asks_late, *rest[-3:])
    return (ask_primary, commit, *rest)


def _begins_as_promotion(world: World, h: int, job: Job) -> list[Outcome]:
    held = world.qemu(h, hold=CLEAN) if world.hosts[h].qemu else world
    return on(held.agent(h, job=job._replace(action=Action.PROMOTE)), h, f"{HOSTS[h]}: begins the switch")


def _asks_late(world: World, h: int, job: Job) -> list[Outcome]:
    return on(world, h, f"{HOSTS[h]}: asks for the fence when it speaks already")
