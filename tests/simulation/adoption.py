"""What a new agent finds when it takes over (hostagent/supervisor/adoption.py)."""

from __future__ import annotations

from tests.simulation.agent import end_process
from tests.simulation.rules import kept
from tests.simulation.view import IN_LOCKSTEP
from tests.simulation.world import CLEAN, SECONDARY, TORN, Agent, Saved, World
from vdc.model.endophyte import CopyRole, CopyStage

OVER = (CopyStage.ABSENT, CopyStage.DEAD, CopyStage.FAILED)


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
