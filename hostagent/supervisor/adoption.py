"""Going on where an earlier agent stopped: find the process, see what state it is really in.

The remembered stage says what the earlier agent was doing; the process says how far it came. Steps that were
under way are repeated (they are idempotent) or undone; a guest that runs is never touched (I8).
"""

from __future__ import annotations

import time

from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.inspect import LiveState, inspect
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.verification import thaw_after_restart
from vdc.model.endophyte import CopyRole, CopyStage

_OVER = (CopyStage.ABSENT, CopyStage.DEAD, CopyStage.FAILED)


async def take_over_after_restart(copy: Copy) -> None:
    """Bring `copy` in line with what runs. Does nothing where nothing was remembered."""
    state = copy.state
    if not state.uid:
        return
    await copy.take_over()
    if not copy.is_alive:
        if state.role is not None and state.stage not in _OVER:
            await copy.save(stage=CopyStage.DEAD)
        if state.role is not None and copy.state.stage is CopyStage.DEAD:
            copy.host.heartbeats.tell_dead(state.uid, state.epoch)
        return
    assert copy.process is not None
    thaw_after_restart(copy.folder, copy.process)
    copy.is_unread = True
    await look_again(copy)


async def look_again(copy: Copy) -> None:
    """Find out how far a process that was taken over has come, as soon as it answers. Until then nothing is known
    but the remembered stage, and no job of the earlier agent is gone on with."""
    state = copy.state
    if not copy.is_alive:
        copy.is_unread = False
        return
    try:
        live = await inspect(copy.session())
    except QmpError as error:
        copy.host.log.warning("the guest runs, QEMU does not answer", endophyte=copy.name, why=str(error))
        return
    copy.is_unread = False
    if live.status == "restore-vm":  # the earlier agent died while it refreshed an emulated guest's code
        await copy.session().execute(Command.CONT)
    stage = _stage_now(copy, live)
    copy.host.log.info("taken over", endophyte=copy.name, pid=copy.pid, was=state.stage, now=stage)
    if live.status == "shutdown":  # the guest powered itself off while nobody listened
        copy.powered_off.set()
        copy.guest_reset = True
    if live.is_colo:
        copy.meter.restart(time.monotonic())
        copy.lockstep_since_s = copy.host.clock.boottime_s()
    if stage in (CopyStage.DEAD, CopyStage.FAILED):
        await copy.end_process()
    if stage is not state.stage:
        await copy.save(stage=stage)


def _stage_now(copy: Copy, live: LiveState) -> CopyStage:
    stage, role = copy.state.stage, copy.state.role
    if role is CopyRole.SECONDARY:
        if stage is CopyStage.PREPARING:
            return CopyStage.FAILED
        if stage in (CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP) and not live.is_colo:
            copy.colo_ended = True
        return stage
    if stage is CopyStage.PREPARING:
        return CopyStage.RUNNING if live.status == "running" and copy.state.machine else CopyStage.DEAD
    if stage is CopyStage.ENTERING:
        return CopyStage.LEAVING
    return stage
