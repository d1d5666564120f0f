"""When the kernel's second gate stands before a copy (drivers/net/consent.py), and that it goes with the lockstep.

It stands from before the record says `in_sync` until the lockstep is taken out. Where it cannot be set the VM is
protected without it: QEMU's gate and the arbitration are what protects, and this one helps where the agent is dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from hostagent.drivers.net import consent, tap_name
from hostagent.drivers.net.names import consent_table
from hostagent.drivers.net.nft import NftError
from hostagent.drivers.qemu import primary
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.state import PlanRecord
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.event import Severity


async def require(copy: Copy) -> None:
    """Set it for the present lockstep, once: a second time would open it for a moment. What fails is told."""
    plan = copy.state.plan
    assert plan is not None
    if copy.consent_epoch == plan.epoch:
        return
    try:
        await _set(copy, plan)
    except NftError as error:
        await copy.host.tell(
            copy.name, "consent-missing", f"the kernel's second gate cannot be set: {error}",
            epoch=plan.epoch, severity=Severity.WARNING,
        )  # fmt: skip


async def take_out(copy: Copy, plan: PlanRecord) -> None:
    """All of a lockstep, out of QEMU, the kernel and the folder; the kernel's gate opens first. Raises VdcError."""
    copy.consent_epoch = 0
    opened = asyncio.create_task(consent.end(copy.state.uid), name=f"{copy.name} consent")
    try:
        await primary.leave(copy.session(), plan.plan(), opened)
    finally:
        await asyncio.wait([opened])
        if not opened.cancelled():
            opened.exception()  # raised by `leave`, if it came so far
    await asyncio.to_thread(copy.credentials.forget)


async def keep(copy: Copy, tables: Collection[str]) -> str:
    """Put right what is not as it has to be, by the names of the tables that are there. Returns what was done.

    A firewall may have been loaded anew, an agent of an earlier version may have marked the pair. Raises NftError.
    """
    state, is_there = copy.state, consent_table(copy.state.uid) in tables
    is_due = state.role is CopyRole.PRIMARY and state.stage is CopyStage.LOCKSTEP
    if is_due and state.plan is not None and state.plan.nics and not is_there:
        await _set(copy, state.plan)
        return "the kernel's second gate was missing and is set again"
    if is_there and state.plan is None:
        await consent.end(state.uid)
        return "the kernel's second gate was left and is taken away"
    return ""


async def _set(copy: Copy, plan: PlanRecord) -> None:
    await consent.require(
        consent.Consent(
            uid=copy.state.uid,
            taps=tuple(tap_name(copy.state.uid, index) for index in range(plan.nics)),
            interface=copy.host.config.replication.interface,
            secondary_address=plan.secondary_address,
            migration_port=plan.plan().ports.migration,
            lapse_ms=consent.lapse_ms(plan.checkpoint_ms),
        )
    )
    copy.consent_epoch = plan.epoch
