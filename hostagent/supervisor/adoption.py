"""Going on where an earlier agent stopped: find the process, see what state it is really in.

The remembered stage says what the earlier agent was doing; the process says how far it came; the journal says
between which two effects it died, for the few steps that neither of the two shows. Steps that were under way
are repeated (they are idempotent) or undone; a guest that runs is never touched (I8).
"""

from __future__ import annotations

import asyncio
import time

from hostagent.drivers.qemu import saving
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.incoming import Incoming
from hostagent.drivers.qemu.inspect import LiveRole, LiveState, inspect
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.supervisor.booting import boot_limit_s
from hostagent.supervisor.confinement import QEMU_LOG
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.handover import after_restart
from hostagent.supervisor.journal import Entry
from hostagent.supervisor.verification import thaw_after_restart
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.step import Step

_OVER = (CopyStage.ABSENT, CopyStage.DEAD, CopyStage.FAILED)
_TICKS_PER_S = 100  # USER_HZ, of /proc/PID/stat


async def take_over_after_restart(copy: Copy) -> None:
    """Bring `copy` in line with what runs. Does nothing where nothing was remembered."""
    state, entry = copy.state, copy.journal.last()
    if not state.uid:
        return
    await copy.take_over()
    if not copy.is_alive:
        await _without_process(copy)
    else:
        await _with_process(copy)
    if entry is not None and entry.is_open:
        _tell(copy, entry)


async def _without_process(copy: Copy) -> None:
    state = copy.state
    if state.role is CopyRole.SECONDARY and state.stage is CopyStage.PREPARING:
        await _prepare_again(copy)
        return
    is_dead = state.role is not None and (state.stage not in _OVER or state.stage is CopyStage.DEAD)
    if is_dead:  # told first: a disk that takes no more writes must not keep it secret
        copy.host.heartbeats.tell_dead(state.uid, state.epoch)
        copy.mark_stage(CopyStage.DEAD)
        await copy.save(stage=CopyStage.DEAD)


async def _with_process(copy: Copy) -> None:
    assert copy.process is not None
    thaw_after_restart(copy.folder, copy.process)
    copy.meter.restart(time.monotonic())  # else no silence of checkpoints is ever measured
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
        await _unanswered(copy)
        return
    if live.status == "restore-vm":  # the earlier agent died while it refreshed an emulated guest's code
        await copy.session().execute(Command.CONT)
    if state.role is CopyRole.SECONDARY and state.stage is CopyStage.PREPARING:
        await _prepare_again(copy)
        copy.is_unread = False
        return
    if state.stage is CopyStage.PAUSED:  # the earlier agent may have died while it saved the memory
        await saving.end(copy.session())
    stage = _stage_now(copy, live)
    if live.is_colo:
        await after_restart(copy)
    _await_memory_again(copy, live)
    copy.is_unread = False  # what failed until here is tried again
    copy.host.log.info("taken over", endophyte=copy.name, pid=copy.pid, was=state.stage, now=stage)
    if live.status == "shutdown":  # the guest powered itself off while nobody listened
        copy.powered_off.set()
        copy.guest_reset = True
    if live.is_colo:
        copy.lockstep_since_s = copy.host.clock.boottime_s()
    _note_age(copy)
    if stage in (CopyStage.DEAD, CopyStage.FAILED):
        await copy.end_process()
    if stage is not state.stage:
        await copy.save(stage=stage)


def _await_memory_again(copy: Copy, live: LiveState) -> None:
    """The primary's connection for memory is accepted by the agent, and the earlier one listens no more."""
    is_waiting = live.role is LiveRole.INCOMING and live.migration == "none"
    if is_waiting and copy.state.stage is CopyStage.READY and copy.state.plan is not None:
        copy.await_memory(Incoming(copy.session(), copy.state.plan.plan()))


def _stage_now(copy: Copy, live: LiveState) -> CopyStage:
    stage, role = copy.state.stage, copy.state.role
    if role is CopyRole.SECONDARY:
        if stage in (CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP) and not live.is_colo:
            copy.trouble.read_log(copy.folder / QEMU_LOG)
            copy.colo_ended = True
        return stage
    match stage, live.status:
        case CopyStage.PREPARING, "paused" if _has_used_memory(copy):
            return CopyStage.PAUSED  # the only one that has that memory now; the table lets it go on
        case CopyStage.PREPARING, status:
            return CopyStage.RUNNING if status == "running" and copy.state.machine else CopyStage.DEAD
        case CopyStage.ENTERING, _:  # lockstep is the last of an entry's steps
            return CopyStage.CHECKPOINTING if live.is_colo else CopyStage.LEAVING
        case CopyStage.RUNNING, "paused":  # the user's wish may have changed since it was carried out
            return CopyStage.PAUSED
        case CopyStage.PAUSED, "running":
            return CopyStage.RUNNING
    return stage


def _has_used_memory(copy: Copy) -> bool:
    return copy.journal.has_reached(Step.LOAD_USED, since=Step.START_BEGUN)


async def _unanswered(copy: Copy) -> None:
    """What was not finished is undone as soon as QEMU answers, or without its answer."""
    state = copy.state
    if state.stage is CopyStage.PREPARING:
        if state.role is CopyRole.SECONDARY:
            await _prepare_again(copy)
        else:
            await copy.end_process()
            await copy.save(stage=CopyStage.DEAD)
    elif state.stage is CopyStage.ENTERING:
        await copy.save(stage=CopyStage.LEAVING)


async def _prepare_again(copy: Copy) -> None:
    """Under the same epoch: while this stage was remembered nobody had been told that the copy is ready."""
    await copy.end_process(is_news=False)
    await copy.save(role=None, stage=CopyStage.ABSENT)


def _note_age(copy: Copy) -> None:
    """An emulated guest that still boots must come to rest before its memory is copied."""
    if copy.process is None or copy.state.role is not CopyRole.PRIMARY:
        return
    if not copy.journal.has_reached(Step.START_BEGUN, since=Step.ENTER_BEGUN):
        return  # it was at rest before it entered lockstep, or was powered on elsewhere
    started_at_s = copy.process.identity.start_ticks / _TICKS_PER_S
    if copy.host.clock.boottime_s() - started_at_s < boot_limit_s(copy):
        copy.booting_since_s = started_at_s


def _tell(copy: Copy, entry: Entry) -> None:
    """Say where it goes on; a store that does not answer must not hold the guest up."""
    sentence = f"the agent of {copy.host.name} was restarted; it goes on after the step {entry.step}"
    copy.telling = asyncio.create_task(
        copy.host.tell(copy.name, "went-on", sentence, epoch=entry.epoch), name=f"{copy.name} went on"
    )
