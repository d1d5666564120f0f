"""What a host does as the primary of a pair: power on, protect, go on alone, power down.

Each function is one action of the table, may be repeated, and leaves a state from which the table goes on
whatever it fails at. Those that change who may speak commit first and touch QEMU second.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from hostagent.drivers.disk.copy import disk_specs
from hostagent.drivers.host.room import require_disk
from hostagent.drivers.qemu import kept, primary
from hostagent.supervisor import consent, credentials, remembering, resync
from hostagent.supervisor.arbiter import swap_pair
from hostagent.supervisor.booting import boot_settled
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.guestnet import nameservers
from hostagent.supervisor.launch import files_for, own_guest_folder
from hostagent.supervisor.machine import disk_sources, has_agent_port, machine_spec
from hostagent.supervisor.shutdown import ask_guest, is_forced
from hostagent.supervisor.state import PlanRecord
from vdc.model.endophyte import CopyRole, CopyStage, Endophyte, MachineFacts, RunState
from vdc.model.errors import RefusedError, VdcError
from vdc.model.event import Severity
from vdc.model.pair import Pair
from vdc.model.step import Step
from vdc.protection.arbitration import go_alone, mark_in_sync

ENTER_DEADLINE_S = 600.0  # without progress of the disk copy, and for what comes after it


async def start(copy: Copy, endophyte: Endophyte, pair: Pair) -> None:
    """Power the guest on from this host's disks; the first start makes them."""
    host = copy.host
    began = host.clock.boottime_s()
    copy.host.heartbeats.untell(endophyte.uid)
    await copy.end_process()
    await copy.save(
        uid=endophyte.uid, role=CopyRole.PRIMARY, stage=CopyStage.PREPARING, epoch=pair.epoch,
        macs=tuple(nic.mac for nic in endophyte.nics), restarts=endophyte.restarts, plan=None, listening_epoch=0,
        older=(), resumes="", machine=None,
    )  # fmt: skip
    await copy.reach(Step.START_BEGUN)
    try:
        images = await host.ensure_images(endophyte)
        image = images[endophyte.image_digest]
        await own_guest_folder(host, copy.name, endophyte.uid)
        record = await copy.disks.load()
        if pair.epoch == 1 and copy.disks.is_unmade(record):
            require_disk(copy.folder, f"the disks of {copy.name} on {host.name}")
            record = await copy.disks.create_primary(
                endophyte.uid, pair.epoch, disk_sources(endophyte, images), endophyte.memory_digest
            )
        elif record is None:
            raise RefusedError(f"the disks of {copy.name} are not on {host.name}", code="disk-missing")
        else:
            record = await copy.disks.bootable(endophyte.uid)
        facts = MachineFacts(
            accelerator=host.record.accelerator.name,
            cpu_model=await host.guest_cpu(),
            qemu_version=host.record.qemu.version,
            disk_sizes_bytes=await copy.disks.virtual_sizes(),
            disk_bases=await copy.disks.bases(),
            nameservers=nameservers(found.value for found in host.mirror.hosts.values()),
            has_agent_port=has_agent_port(image),
        )
        await copy.save(machine=facts)  # before QEMU starts: the next agent can tell what it finds
        await copy.reach(Step.START_DISKS)
        spec = machine_spec(endophyte, image, facts, disk_specs(record))
        memory = remembering.fitting(record.memory, images, spec, facts) if record.memory else None
        spec = replace(spec, awaits_memory=memory is not None)
        await copy.start(endophyte, spec, CopyRole.PRIMARY, files_for(host, endophyte, image, facts))
        if memory is not None:
            await remembering.go_on(copy, memory)
    except BaseException:
        await copy.end_process()
        raise
    await kept.forget_broken(copy.session(), len(record.heads))
    older = await kept.kept(copy.session(), len(record.heads))  # stored when the guest was powered off
    await copy.save(stage=CopyStage.RUNNING, older=older)
    await copy.reach(Step.START_DONE)
    await remembering.let_go(copy, endophyte)
    took_ms = round((host.clock.boottime_s() - began) * 1000, 1)
    sentence = f"goes on on {host.name} where it was saved" if memory else f"started on {host.name}"
    await host.tell(copy.name, "started", sentence, epoch=pair.epoch, start_ms=took_ms)


async def adopt_epoch(copy: Copy, endophyte: Endophyte, pair: Pair) -> None:
    """Act under the newer epoch; where a secondary was added, open the channels that it will connect to.

    The epoch is this copy's own only when everything is done: until then the table does it again.
    """
    await copy.remember_epoch(pair.epoch)
    earlier = copy.state.plan
    if earlier is not None and earlier.epoch != pair.epoch:
        await copy.remember_epoch(pair.epoch)
        await copy.reconnect()
        await consent.take_out(copy, earlier)  # its channels would keep their ports
    await copy.reach(Step.ADOPT_LEFT)
    await copy.disks.renew(pair.epoch)
    await copy.reach(Step.ADOPT_EPOCH)
    if pair.secondary is None:
        await copy.save(epoch=pair.epoch, plan=None, listening_epoch=0)
        return
    peer = copy.host.mirror.hosts[pair.secondary].value
    facts = copy.state.machine
    assert facts is not None
    plan = PlanRecord(
        epoch=pair.epoch, slot=pair.slot, disks=len(facts.disk_sizes_bytes), nics=len(endophyte.nics),
        primary_address=str(copy.host.config.replication.address), secondary_address=peer.replication_address,
        has_rewriter=facts.has_rewriter, checkpoint_ms=endophyte.manifest.spec.protection.checkpoint_ms,
    )  # fmt: skip
    await copy.save(plan=plan, listening_epoch=0)
    await copy.reach(Step.ADOPT_PLANNED)
    try:
        await credentials.make(copy, pair.epoch)
        await copy.reach(Step.ADOPT_CREDENTIALS)
        await copy.reconnect()
        await primary.open_channels(copy.session(), plan.plan())
    except VdcError as error:
        await _call_off(copy, pair, error)
        return
    await copy.reach(Step.ADOPT_OPENED)
    older = await kept.kept(copy.session(), plan.disks)
    await copy.save(epoch=pair.epoch, listening_epoch=pair.epoch, older=older)
    await copy.reach(Step.ADOPT_DONE)


async def enter(copy: Copy, pair: Pair) -> None:
    """Copy disk and memory and enter lockstep. On failure the guest runs on, and the secondary is given up."""
    host, plan = copy.host, copy.state.plan
    assert plan is not None and plan.epoch == pair.epoch
    await boot_settled(copy)
    await copy.save(stage=CopyStage.ENTERING)
    await copy.reach(Step.ENTER_BEGUN)
    copy.trouble.forget()
    copy.colo_ended = copy.guest_reset = False  # what happened while it ran alone ends no lockstep
    copy.copying.restart()
    full = plan.plan()
    try:
        full = await resync.entry_plan(copy, pair)
        report = await primary.enter(
            copy.session(), full, progress=copy.copying.report, figures=copy.copying.report_figures,
            reach=copy.reach, deadline_s=ENTER_DEADLINE_S,
        )  # fmt: skip
    except VdcError as error:
        await resync.forget_used(copy, full)
        await _call_off(copy, pair, error)
        return
    await resync.forget_used(copy, full)
    copy.meter.restart(time.monotonic())
    copy.lockstep_since_s = host.clock.boottime_s()
    await copy.reach(Step.ENTER_LOCKSTEP)
    await copy.save(stage=CopyStage.CHECKPOINTING)
    await copy.reach(Step.ENTER_DONE)
    what = "what was written since was copied" if full.changes_since else "copied"
    sentence = f"{what} to {pair.secondary}; the guest stood still for {report.stopped_ms:.0f} ms"
    await host.tell(
        copy.name, "lockstep-entered", sentence,
        epoch=pair.epoch, stopped_ms=report.stopped_ms, mirror_ms=report.mirror_ms, copy_ms=report.copy_ms,
        total_ms=report.total_ms, copied_bytes=float(report.copied_bytes), disk_bytes=float(report.disk_bytes),
        resumed=float(bool(full.changes_since)),
    )  # fmt: skip


async def _call_off(copy: Copy, pair: Pair, error: VdcError) -> None:
    """Lockstep was not reached and everything for it is undone: give the secondary up, so that another is chosen."""
    copy.mark_stage(CopyStage.LEAVING)  # from here on the table finishes it, whatever fails below
    sentence = f"lockstep with {pair.secondary} was not reached: {error}"
    await copy.host.tell(
        copy.name, "protection-failed", sentence, epoch=pair.epoch, severity=Severity.WARNING
    )
    if copy.state.plan is not None:
        await consent.take_out(copy, copy.state.plan)
    await copy.reach(Step.CALL_OFF_LEFT)
    after = await swap_pair(
        copy.host,
        copy.name,
        pair.epoch,
        lambda p, r, now: go_alone(p, reason=sentence, request_id=r, now=now),
    )
    await copy.reach(Step.CALL_OFF_COMMITTED)
    await copy.save(stage=CopyStage.RUNNING, epoch=after.epoch, plan=None, listening_epoch=0)
    await copy.reach(Step.CALL_OFF_DONE)


async def mark(copy: Copy, pair: Pair) -> None:
    """Record that the secondary may be promoted from now on, and close the tap to what it does not consent to."""
    await asyncio.to_thread(copy.credentials.forget_authority)
    await consent.require(copy)
    await copy.reach(Step.MARK_CONSENT)
    after = await swap_pair(
        copy.host, copy.name, pair.epoch, lambda p, r, now: mark_in_sync(p, request_id=r, now=now)
    )
    await copy.reach(Step.MARK_COMMITTED)
    await copy.save(stage=CopyStage.LOCKSTEP)
    await copy.reach(Step.MARK_DONE)
    await copy.host.tell(
        copy.name,
        "lockstep",
        f"primary on {after.primary} in lockstep with {after.secondary}",
        epoch=after.epoch,
    )


async def alone(
    copy: Copy, endophyte: Endophyte | None, pair: Pair, sentence: str, *, orderly: bool = False
) -> None:
    """Win the epoch, then take the lockstep parts out of the running guest (if it runs).

    `orderly`: the secondary is not lost, so that its disks may be kept and later be brought up to date.
    """
    host = copy.host
    keep_copy = orderly and await resync.begin_record(copy, endophyte, pair)
    began = host.clock.boottime_s()
    durable = asyncio.create_task(copy.remember_epoch(pair.epoch + 1), name=f"{copy.name} epoch")
    try:
        after = await swap_pair(
            host, copy.name, pair.epoch,
            lambda p, r, now: go_alone(p, reason=sentence, request_id=r, now=now, keep_copy=keep_copy),
        )  # fmt: skip
    finally:
        await durable
    arbitrated_ms = (host.clock.boottime_s() - began) * 1000
    await copy.reach(Step.ALONE_COMMITTED)
    if copy.is_alive:
        copy.state = copy.state.with_(epoch=after.epoch, stage=CopyStage.LEAVING)
        await leave(copy, endophyte, after)
    elif copy.state.role is not None:
        await copy.save(epoch=after.epoch, stage=CopyStage.DEAD, plan=None, listening_epoch=0)
    total_ms = (host.clock.boottime_s() - began) * 1000
    await copy.reach(Step.ALONE_DONE)
    await host.tell(
        copy.name, "alone", sentence, epoch=after.epoch, severity=Severity.WARNING,
        arbitrated_ms=round(arbitrated_ms, 1), total_ms=round(total_ms, 1),
    )  # fmt: skip


async def leave(copy: Copy, endophyte: Endophyte | None, pair: Pair) -> None:
    """Take the lockstep parts out; the record says already that this copy is alone."""
    plan, was_in_lockstep = copy.state.plan, copy.state.stage is CopyStage.LOCKSTEP
    await copy.remember_epoch(pair.epoch)  # an agent that died after the commit has not
    copy.state = copy.state.with_(epoch=pair.epoch, stage=CopyStage.LEAVING)  # so that it is gone on with
    await copy.reconnect()
    if was_in_lockstep:
        await resync.record_withdrawn(copy, pair)
    qmp = copy.session()
    if plan is not None:
        await consent.take_out(copy, plan)
    await copy.reach(Step.LEAVE_PARTS)
    is_to_run = endophyte is None or endophyte.run is not RunState.PAUSED
    if is_to_run and not copy.powered_off.is_set():
        await primary.resume(qmp)
    await copy.reach(Step.LEAVE_RESUMED)
    copy.meter.restart(time.monotonic())
    copy.lockstep_since_s = None
    copy.colo_ended = copy.guest_reset = False
    copy.trouble.forget()
    await copy.disks.renew(pair.epoch)
    await copy.reach(Step.LEAVE_DISKS)
    # Last: what is wanted next (a pause, another secondary) may begin as soon as this shows.
    await copy.save(stage=CopyStage.RUNNING, epoch=pair.epoch, plan=None, listening_epoch=0)
    await copy.reach(Step.LEAVE_DONE)


async def isolate(copy: Copy) -> None:
    """Pause the guest: neither the store nor the other copy answers, so nobody knows who may speak."""
    if copy.state.plan is not None:
        await primary.sever(copy.session(), copy.state.plan.plan())
    await primary.quiesce(copy.session())
    await copy.reach(Step.ISOLATE_STOPPED)
    await copy.save(stage=CopyStage.ISOLATED)
    await copy.reach(Step.ISOLATE_DONE)
    await copy.host.tell(
        copy.name, "isolated", "paused: neither the store nor the other copy answers",
        epoch=copy.state.epoch, severity=Severity.WARNING,
    )  # fmt: skip


async def pause(copy: Copy) -> None:
    """The user's pause."""
    await primary.quiesce(copy.session())
    await copy.reach(Step.PAUSE_STOPPED)
    await copy.save(stage=CopyStage.PAUSED)
    await copy.reach(Step.PAUSE_DONE)
    await copy.host.tell(copy.name, "paused", "paused", epoch=copy.state.epoch)


async def resume(copy: Copy) -> None:
    """End the user's pause."""
    await primary.resume(copy.session())
    await copy.reach(Step.RESUME_RUNNING)
    await copy.save(stage=CopyStage.RUNNING)
    await copy.reach(Step.RESUME_DONE)
    await copy.host.tell(copy.name, "resumed", "running again", epoch=copy.state.epoch)


async def power_down(copy: Copy) -> None:
    """Ask the guest to shut down, repeat the request, end it when its time is up or the user has no patience."""
    await ask_guest(copy)
    was_asked_in_vain = copy.is_alive and not copy.powered_off.is_set() and not is_forced(copy)
    await copy.reach(Step.POWER_DOWN_ASKED)
    await switch_off(copy)
    await copy.reach(Step.POWER_DOWN_DONE)
    sentence = "stopped; it did not shut down when asked" if was_asked_in_vain else "stopped"
    await copy.host.tell(copy.name, "stopped", sentence, epoch=copy.state.epoch)


async def switch_off(copy: Copy) -> None:
    """End whatever runs and take the ports away; the disks stay for the next start."""
    await resync.store_records(copy)
    await copy.end_process()
    await copy.reach(Step.SWITCH_OFF_ENDED)
    await copy.remove_ports()
    await copy.reach(Step.SWITCH_OFF_PORTS)
    await copy.save(role=None, stage=CopyStage.ABSENT, plan=None, listening_epoch=0)
    await copy.reach(Step.SWITCH_OFF_DONE)
