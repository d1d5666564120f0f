"""What spares a resync its bytes: the base that every host has, and the disks that a former secondary kept.

An older copy is used only where all of this holds; else everything above the base is copied.
- It left in order. The primary began to record its writes (a dirty bitmap in its QEMU) while both were in lockstep,
  and saw a whole checkpoint after that (`begin_record`). Only then may the secondary's QEMU end.
- No disk of the pair refused anything since the lockstep began, as far as either host heard (`trouble.py`): QEMU's
  `replication` conceals the secondary's failed writes from the guest.
- The secondary's QEMU wrote everything out before it was ended, and its disks were found sound (`keep_copy`).
- The next time its host finds them with the same uid and epoch, under the name by which the primary's QEMU still
  has its record (`secondary_disks`). With the first write they are dirty, and never used like this again.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from hostagent.drivers.disk.copy import CopyRecord, older_copy
from hostagent.drivers.qemu import kept
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.machine import disk_sources
from vdc.model.endophyte import CopyRole, CopyStage, Endophyte, MachineFacts, Observed
from vdc.model.errors import UnavailableError, VdcError
from vdc.model.image import Image
from vdc.model.pair import Pair, SyncState
from vdc.model.units import GIB
from vdc.protection.events import Event

ORDERLY: Final = frozenset({Event.PROTECTION_UNWANTED, Event.GUEST_RESET})
CHECKPOINT_GRACE_S = 1.0  # beyond the interval, for the checkpoint that proves the other disk complete
QUIT_S = 10.0
HANDSHAKE_S = 6.0  # for the primary to say that it records
ROOM_BYTES = GIB // 2  # below this much free space older copies go
_BYTES_PER_MBIT = 125_000


# ---- primary


async def begin_record(copy: Copy, endophyte: Endophyte | None, pair: Pair) -> bool:
    """Begin to record what the secondary is about to miss; whether its disks may be kept. Raises nothing.

    Call it while the lockstep is on, before it is taken out.
    """
    host, plan = pair.secondary, copy.state.plan
    is_to_end = endophyte is None or endophyte.deleting
    if host is None or plan is None or not plan.disks or pair.sync is not SyncState.IN_SYNC or is_to_end:
        return False
    return await _record(copy, plan.disks, kept.bitmap_name(host, pair.epoch))


async def record_withdrawn(copy: Copy, pair: Pair) -> None:
    """As `begin_record`, where the leader withdrew the secondary and wishes its disks kept."""
    plan = copy.state.plan
    if plan is None or not plan.disks:
        return
    for older in pair.older:
        if older.epoch == plan.epoch:
            await _record(copy, plan.disks, kept.bitmap_name(older.host, older.epoch))


async def _record(copy: Copy, disks: int, name: str) -> bool:
    try:
        qmp = copy.session()
        await kept.begin(qmp, disks, name)
        is_proven = await _whole_checkpoint(copy)
        if not is_proven:
            await kept.drop(qmp, disks, name)
        await copy.save(older=await kept.kept(qmp, disks))
    except VdcError as error:
        copy.host.log.info("no older copy is kept", endophyte=copy.name, why=str(error))
        return False
    return is_proven


async def _whole_checkpoint(copy: Copy) -> bool:
    """Wait for a checkpoint that begins now or later: what was under way to the other disk has arrived then."""
    assert copy.state.plan is not None
    before, interval_s = copy.meter.count, copy.state.plan.checkpoint_ms / 1000
    while copy.meter.count < before + 2:  # one may have begun already
        is_late = copy.quiet_ms() > (interval_s + CHECKPOINT_GRACE_S) * 1000
        if not copy.is_alive or copy.trouble.is_torn or is_late:
            return False
        await asyncio.sleep(0.02)
    return not copy.trouble.is_torn


async def store_records(copy: Copy) -> None:
    """Let QEMU end by itself, with its records in the images, where there are any; whoever calls ends it for sure."""
    if not copy.state.older or not copy.is_alive or copy.process is None:
        return
    with suppress(VdcError, TimeoutError):
        await copy.session().execute(Command.QUIT, deadline_s=5.0)
        async with asyncio.timeout(QUIT_S):
            await copy.process.wait()


async def entry_plan(copy: Copy, pair: Pair) -> LockstepPlan:
    """The plan of this entry, as the secondary has prepared it."""
    assert copy.state.plan is not None and pair.secondary is not None
    plan, facts = copy.state.plan.plan(), copy.state.machine
    observed = copy.host.mirror.observed(copy.name, pair.secondary)
    there = observed.machine if observed is not None else None
    bases = zip(facts.disk_bases, there.disk_bases, strict=False) if facts and there else ()
    since = observed.resumes if observed is not None else ""
    if since and since not in await kept.kept(copy.session(), plan.disks):
        raise UnavailableError(f"what was written since {since} is not known any more", code="record-lost")
    return replace(
        plan,
        bases=tuple(bool(here) and here == other for here, other in bases),
        changes_since=since,
        copy_bytes_per_s=copy.host.config.resync_mbit * _BYTES_PER_MBIT,
    )


async def forget_used(copy: Copy, plan: LockstepPlan) -> None:
    """The older copy that this entry began with is none any more, whatever became of the entry."""
    if not plan.changes_since:
        return
    with suppress(VdcError):
        await kept.drop(copy.session(), plan.disks, plan.changes_since)
        await copy.save(older=await kept.kept(copy.session(), plan.disks))


# ---- secondary


async def keep_copy(copy: Copy) -> bool:
    """End this secondary so that its disks stay as an older copy. False: they are worth nothing, discard all."""
    state, pair = copy.state, copy.host.mirror.pair(copy.name)
    if pair is None:
        return False
    if not copy.is_alive and await _keep_what_was_kept(copy, pair):
        return True
    if not _may_keep(copy, pair) or not copy.is_alive:
        return False
    name = kept.bitmap_name(copy.host.name, state.epoch)
    if not await _primary_records(copy, state.epoch, name):
        return False
    try:
        # `stop` writes everything out, in any state. A QEMU in lockstep does not end by itself when it is asked to.
        await copy.session().execute(Command.STOP, deadline_s=30.0)
        if copy.trouble.is_torn:  # heard while it wrote, before the answer
            return False
        await copy.end_process()
        record = await copy.disks.keep_older()
        await copy.discard(keep=record)
    except VdcError as error:
        copy.host.log.info("no older copy is kept", endophyte=copy.name, why=str(error))
        return False
    return True


async def _keep_what_was_kept(copy: Copy, pair: Pair) -> bool:
    """Finish what the end of an agent or of its host interrupted: the disks were an older copy already."""
    record = older_copy(copy.folder)
    if record is None or record.uid != copy.state.uid or not _is_wanted(copy, pair, record):
        return False
    await copy.discard(keep=record)
    return True


def _may_keep(copy: Copy, pair: Pair) -> bool:
    state = copy.state
    return (
        state.role is CopyRole.SECONDARY
        and state.stage is CopyStage.LOCKSTEP
        and not copy.trouble.is_torn
        and pair.uid == state.uid
        and pair.keeps_older(copy.host.name, state.epoch)
        and _has_room(copy)
    )


async def _primary_records(copy: Copy, epoch: int, name: str) -> bool:
    """Wait until the primary has left the lockstep; whether it records what is written since."""
    mirror = copy.host.mirror
    changed = asyncio.Event()
    unsubscribe = mirror.subscribe(lambda _: changed.set())
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            while True:
                changed.clear()
                pair = mirror.pair(copy.name)
                primary = mirror.observed(copy.name, pair.primary) if pair else None
                if primary is None or primary.uid != copy.state.uid:
                    return False
                if primary.epoch > epoch:
                    return name in primary.older
                await changed.wait()
    except TimeoutError:
        return False
    finally:
        unsubscribe()


def is_kept(copy: Copy) -> bool:
    """Whether what lies here is an older copy that may still be used. A cheap look, for every pass."""
    pair = copy.host.mirror.pair(copy.name)
    if copy.older is None or copy.state.uid or pair is None:
        return False
    return _is_wanted(copy, pair, copy.older)


def _is_wanted(copy: Copy, pair: Pair, older: CopyRecord) -> bool:
    endophyte = copy.host.mirror.endophyte(copy.name)
    if endophyte is None or endophyte.deleting or pair.uid != older.uid:
        return False
    return (
        pair.keeps_older(copy.host.name, older.epoch)
        and not _is_forgotten(copy, pair, older)
        and _has_room(copy)
    )


def _is_forgotten(copy: Copy, pair: Pair, older: CopyRecord) -> bool:
    """Whether the primary's QEMU is another one since, or has given the record up."""
    primary = copy.host.mirror.observed(copy.name, pair.primary)
    if primary is None or primary.uid != pair.uid or primary.stage is not CopyStage.RUNNING:
        return False
    name = kept.bitmap_name(copy.host.name, older.epoch)
    return primary.epoch == pair.epoch and name not in primary.older


def _has_room(copy: Copy) -> bool:
    try:
        return shutil.disk_usage(copy.host.vms_dir).free >= ROOM_BYTES
    except OSError:
        return False


async def secondary_disks(
    copy: Copy, endophyte: Endophyte, pair: Pair, images: Mapping[str, Image], primary: Observed
) -> tuple[CopyRecord, MachineFacts, str]:
    """Make the disks of a secondary: of the older copy here, else empty ones over the image's base.

    Returns their record, the primary's facts with the bases that these disks really have, and the name of the
    primary's record when they are the older copy.
    """
    facts = primary.machine
    assert facts is not None
    older = older_copy(copy.folder)
    if older is not None and older.uid == endophyte.uid:
        name = kept.bitmap_name(copy.host.name, older.epoch)
        if name in primary.older and await copy.disks.virtual_sizes() == facts.disk_sizes_bytes:
            bases = await copy.disks.bases()
            return await copy.disks.reuse_older(pair.epoch), facts.with_(disk_bases=bases), name
    sources = [
        source if place < len(facts.disk_bases) and facts.disk_bases[place] == source.base else None
        for place, source in enumerate(disk_sources(endophyte, images))
    ]
    record = await copy.disks.create_secondary(endophyte.uid, pair.epoch, facts.disk_sizes_bytes, sources)
    used = tuple(source.base or "" if source else "" for source in sources)
    return record, facts.with_(disk_bases=used), ""
