"""What a host does as the secondary of a pair: prepare, take over, tidy up.

`promote` is the product's main moment: commit the new epoch, then speak. While the commit is on its way the
epoch is written to this host's disk, so that both are known when QEMU is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from hostagent.drivers.disk.copy import disk_specs, older_copy
from hostagent.drivers.host.room import require_disk
from hostagent.drivers.net import tap_name
from hostagent.drivers.qemu import secondary
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.drivers.qemu.steps import run_state
from hostagent.supervisor import credentials, resync
from hostagent.supervisor.arbiter import swap_pair
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.handover import Handover
from hostagent.supervisor.launch import files_for, own_guest_folder
from hostagent.supervisor.machine import machine_spec
from hostagent.supervisor.state import PlanRecord
from vdc.model.endophyte import CopyRole, CopyStage, Endophyte, Observed
from vdc.model.errors import RefusedError, UnavailableError, VdcError
from vdc.model.event import Severity
from vdc.model.pair import Pair
from vdc.model.step import Step
from vdc.protection.arbitration import promote_secondary
from vdc.protection.placement import as_started, why_not_a_pair

PRIMARY_DEADLINE_S = 60.0


async def prepare(copy: Copy, endophyte: Endophyte, pair: Pair) -> None:
    """Make the disks, start QEMU and let it wait for the primary's memory."""
    host = copy.host
    await copy.discard(keep=older_copy(copy.folder))
    host.heartbeats.untell(endophyte.uid)
    await copy.save(
        uid=endophyte.uid, role=CopyRole.SECONDARY, stage=CopyStage.PREPARING, epoch=pair.epoch,
        macs=tuple(nic.mac for nic in endophyte.nics),
    )  # fmt: skip
    await copy.reach(Step.PREPARE_BEGUN)
    try:
        images = await host.ensure_images(endophyte)
        image = images[endophyte.image_digest]
        observed = await _primary_listening(copy, pair)
        await copy.reach(Step.PREPARE_LISTENING)
        facts = observed.machine
        assert facts is not None
        started = as_started(host.mirror.hosts[pair.primary].value, facts)
        if reason := why_not_a_pair(started, host.record):
            raise RefusedError(reason, code="lockstep-impossible")
        await own_guest_folder(host, copy.name, endophyte.uid)
        require_disk(copy.folder, f"the disks of {copy.name} on {host.name}")
        record, facts, resumes = await resync.secondary_disks(copy, endophyte, pair, images, observed)
        await copy.reach(Step.PREPARE_DISKS)
        await credentials.obtain(copy, pair)
        await copy.reach(Step.PREPARE_CREDENTIALS)
        specs = disk_specs(record, len(facts.disk_sizes_bytes))
        spec = machine_spec(endophyte, image, facts, specs)
        await copy.start(endophyte, spec, CopyRole.SECONDARY, files_for(host, endophyte, image, facts))
        plan = PlanRecord(
            epoch=pair.epoch, slot=pair.slot, disks=len(specs), nics=len(endophyte.nics),
            primary_address=host.mirror.hosts[pair.primary].value.replication_address,
            secondary_address=str(host.config.replication.address),
            has_rewriter=facts.has_rewriter, checkpoint_ms=endophyte.manifest.spec.protection.checkpoint_ms,
        )  # fmt: skip
        copy.await_memory(await secondary.prepare(copy.session(), plan.plan()))
        await copy.reach(Step.PREPARE_WAITING)
    except BaseException:
        await copy.end_process()
        raise
    # What is promoted later is the guest that the primary powered on: not one that has yet to be restarted.
    restarts = observed.restarts
    await copy.save(stage=CopyStage.READY, plan=plan, machine=facts, resumes=resumes, restarts=restarts)
    await copy.reach(Step.PREPARE_DONE)


async def _primary_listening(copy: Copy, pair: Pair) -> Observed:
    """Wait until the primary's channels for this epoch are open."""
    mirror = copy.host.mirror
    changed = asyncio.Event()
    unsubscribe = mirror.subscribe(lambda key: changed.set())
    try:
        async with asyncio.timeout(PRIMARY_DEADLINE_S):
            while True:
                changed.clear()
                observed = mirror.observed(copy.name, pair.primary)
                if observed is not None and observed.listening_epoch == pair.epoch and observed.machine:
                    return observed
                await changed.wait()
    except TimeoutError as error:
        raise UnavailableError(
            f"the primary on {pair.primary} did not open its channels", code="peer-late"
        ) from error
    finally:
        unsubscribe()


async def lockstep_noted(copy: Copy) -> None:
    """The pair is in sync: this copy's disks could be booted, were it promoted and then lost."""
    if copy.state.plan is not None:  # the disks first: an agent that dies in between does both again
        await copy.disks.in_sync(copy.state.plan.disks)
    await copy.reach(Step.SYNCED_DISKS)
    await copy.save(stage=CopyStage.LOCKSTEP)
    await copy.reach(Step.SYNCED_DONE)


async def promote(
    copy: Copy,
    pair: Pair,
    sentence: str,
    *,
    switch: Handover | None = None,
    spoken: Callable[[Pair], None] = lambda _: None,
) -> Pair:
    """Win the epoch, then speak. Raises FencedError where the primary won, and touches nothing then.

    `switch`: both copies agreed to a planned promotion. `spoken` is called as soon as the guest here speaks.
    """
    host = copy.host
    began = host.clock.boottime_s()
    await copy.reach(Step.PROMOTE_BEGUN)
    durable = asyncio.create_task(_remember(copy, pair.epoch + 1), name=f"{copy.name} epoch")
    try:
        after = await swap_pair(
            host,
            copy.name,
            pair.epoch,
            lambda p, r, now: promote_secondary(p, reason=sentence, request_id=r, now=now),
        )
    finally:
        await durable
    arbitrated_ms = (host.clock.boottime_s() - began) * 1000
    await copy.reach(Step.PROMOTE_COMMITTED)
    copy.state = copy.state.with_(role=CopyRole.PRIMARY, stage=CopyStage.PROMOTING, epoch=after.epoch)
    steps = await _speak(copy, after, switch)
    total_ms = (host.clock.boottime_s() - began) * 1000
    spoken(after)
    severity = Severity.WARNING if switch is None else Severity.NORMAL
    await host.tell(
        copy.name, "promoted", sentence, epoch=after.epoch, severity=severity,
        arbitrated_ms=round(arbitrated_ms, 1), total_ms=round(total_ms, 1), **steps,
    )  # fmt: skip
    if switch is not None:
        await switch.leave()
    await _tidy(copy)
    await copy.reach(Step.PROMOTE_DONE)
    return after


async def _remember(copy: Copy, epoch: int) -> None:
    """What must be on disk before the guest here speaks: the epoch, and that its newest writes are in the layers."""
    await copy.remember_epoch(epoch)
    if copy.state.plan is not None:
        await copy.disks.promoted(epoch, copy.state.plan.disks)


async def take_over(copy: Copy, pair: Pair) -> None:
    """Carry out a promotion that the record shows already. Idempotent.

    An agent that died straight after its commit has remembered neither the epoch nor where the newest writes are.
    """
    await copy.remember_epoch(pair.epoch)
    record = await copy.disks.load()
    if record is not None and record.epoch < pair.epoch:  # else the layers may be written back already
        await _remember(copy, pair.epoch)
    await _speak(copy, pair)
    is_told = copy.journal.has_reached(Step.TIDY_BEGUN, since=Step.PROMOTE_BEGUN)
    if not is_told:
        sentence = f"{pair.reason}; the outcome was read from the record"
        await copy.host.tell(copy.name, "promoted", sentence, epoch=pair.epoch, severity=Severity.WARNING)
    await _tidy(copy)


async def _speak(copy: Copy, pair: Pair, switch: Handover | None = None) -> dict[str, float]:
    """Open the guest's way to the network; returns milliseconds per step."""
    host, plan = copy.host, copy.state.plan
    if plan is None:
        raise RefusedError(f"{copy.name}: nothing is known of the lockstep to take over from", code="no-plan")
    await copy.reconnect()
    qmp = copy.session()
    copy.state = copy.state.with_(role=CopyRole.PRIMARY, stage=CopyStage.PROMOTING, epoch=pair.epoch)
    members = [(tap_name(copy.state.uid, index), mac) for index, mac in enumerate(copy.state.macs)]
    # Each has to be done whatever the other fails at: the epoch is won, nobody else will speak.
    going_live = asyncio.create_task(host.overlay.go_live(members), name=f"{copy.name} go live")
    spoken, live, _ = await asyncio.gather(
        switch.speak(going_live) if switch else secondary.promote(qmp, plan.plan()),
        going_live,
        copy.save(),
        return_exceptions=True,
    )
    for result in (spoken, live):
        if isinstance(result, BaseException):
            raise result
    await copy.reach(Step.SPEAK_LIVE)
    await secondary.announce(qmp)
    await copy.reach(Step.SPEAK_ANNOUNCED)
    if switch is None and host.record.accelerator.name == "tcg":
        await secondary.refresh_code(qmp)
    host.overlay.nudge(*(ifname for ifname, _ in members))
    await copy.reach(Step.SPEAK_DONE)
    assert isinstance(spoken, dict)
    return {f"{step}_ms": round(took_ms, 1) for step, took_ms in spoken.items() if step != "total"}


async def _tidy(copy: Copy) -> None:
    """Not urgent any more: remember, and take out what a lone primary does not need."""
    facts, plan = copy.state.machine, copy.state.plan
    assert facts is not None and plan is not None
    copy.colo_ended = copy.guest_reset = copy.guest_crashed = False
    if await run_state(copy.session()) != "shutdown":
        copy.powered_off.clear()  # said by a copy that went its own way, and was put right by a checkpoint
    copy.rank_for_memory(CopyRole.PRIMARY)
    copy.lockstep_since_s = None
    copy.meter.restart(time.monotonic())
    await copy.save(machine=facts.with_(has_rewriter=True))
    await copy.reach(Step.TIDY_BEGUN)
    try:
        await secondary.settle(copy.session(), plan.plan())
    except QmpError as error:
        await copy.host.tell(
            copy.name, "tidy-failed", f"clean-up after the promotion failed: {error}",
            epoch=copy.state.epoch, severity=Severity.WARNING,
        )  # fmt: skip
        raise  # the stage stays PROMOTING, so it is done again: the disks' record must not lag behind QEMU
    await copy.reach(Step.TIDY_SETTLED)
    await asyncio.to_thread(copy.credentials.forget)
    await copy.disks.settled()
    await copy.reach(Step.TIDY_DISKS)
    await copy.save(stage=CopyStage.RUNNING, plan=None, listening_epoch=0)
    await copy.reach(Step.TIDY_DONE)


async def inherit(copy: Copy, pair: Pair) -> None:
    """The record made this host the primary, and its copy ended before that was remembered."""
    await copy.end_process()
    await copy.save(role=CopyRole.PRIMARY, stage=CopyStage.DEAD, epoch=pair.epoch, plan=None)
    await copy.reach(Step.INHERIT_DONE)


async def failed(copy: Copy, error: VdcError) -> None:
    """The secondary could not be made: nothing of it may stay, and the primary is told by the observed record.

    The primary may know already that the process ended, and its answer cancels this; why must be told even then.
    """
    sentence = f"{copy.host.name} could not become the secondary: {error}"
    told = copy.host.tell(
        copy.name, "secondary-failed", sentence, epoch=copy.state.epoch, severity=Severity.WARNING
    )
    await asyncio.shield(told)
    with suppress(VdcError):
        await copy.end_process()
    await copy.save(stage=CopyStage.FAILED)


def watch_for_crash(copy: Copy) -> None:
    """A secondary whose guest runs on memory that does not fit together says so on its console."""
    state = copy.state
    is_together = state.stage in (CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP)
    if state.role is CopyRole.SECONDARY and is_together and copy.console.sees_panic():
        copy.guest_crashed = True
