"""The kernel's second gate stands while a primary is in lockstep, opens before QEMU's own, and is put right."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from protection_world import UID

from hostagent.drivers.net import consent as rules
from hostagent.drivers.net.names import consent_table
from hostagent.drivers.net.nft import NftError
from hostagent.supervisor import consent
from hostagent.supervisor.state import CopyState, PlanRecord
from vdc.model.endophyte import CopyRole, CopyStage

TABLE = consent_table(UID)
PLAN = PlanRecord(
    epoch=4, slot=0, disks=1, nics=1, primary_address="10.0.0.1", secondary_address="10.0.0.2", has_rewriter=False,
    checkpoint_ms=300,
)  # fmt: skip


class Copy:
    """As much of one as the gate depends on."""

    def __init__(self, stage=CopyStage.LOCKSTEP, *, role=CopyRole.PRIMARY, plan=PLAN):
        self.name, self.consent_epoch, self.told = "web", 0, []
        self.state = CopyState(name="web", uid=UID, highest_epoch=4, role=role, stage=stage, plan=plan)
        replication = SimpleNamespace(interface="eth1")
        self.credentials = SimpleNamespace(forget=lambda: None)
        self.host = SimpleNamespace(config=SimpleNamespace(replication=replication), tell=self._tell)

    async def _tell(self, name, code, sentence, **_):
        self.told.append(code)

    def session(self):
        return None


@pytest.fixture
def kernel(monkeypatch):
    """What was asked of it, in order; it refuses everything once `kernel.refuses` is set."""
    asked = SimpleNamespace(calls=[], refuses=False)

    def asking(what):
        async def ask(_):
            await asyncio.sleep(0.01)
            if asked.refuses:
                raise NftError("nft was not found")
            asked.calls.append(what)

        return ask

    monkeypatch.setattr(rules, "require", asking("set"))
    monkeypatch.setattr(rules, "end", asking("end"))

    async def leave(qmp, plan, opened):
        await asyncio.sleep(0)
        await opened
        asked.calls.append("QEMU's gate opens")

    monkeypatch.setattr(consent.primary, "leave", leave)
    return asked


async def test_it_is_set_once_per_lockstep(kernel):
    copy = Copy()
    await consent.require(copy)
    await consent.require(copy)
    copy.state = copy.state.with_(plan=PLAN.with_(epoch=6))
    await consent.require(copy)
    assert kernel.calls == ["set", "set"]


async def test_a_kernel_that_refuses_it_is_told_and_ends_no_protection(kernel):
    kernel.refuses, copy = True, Copy()
    await consent.require(copy)
    assert copy.told == ["consent-missing"]
    assert copy.consent_epoch == 0


async def test_it_opens_before_the_gate_of_qemu(kernel):
    await consent.take_out(Copy(), PLAN)
    assert kernel.calls == ["end", "QEMU's gate opens"]


async def test_while_it_cannot_be_opened_qemus_gate_stays_closed_too(kernel):
    kernel.refuses = True
    with pytest.raises(NftError):
        await consent.take_out(Copy(), PLAN)
    assert kernel.calls == []


@pytest.mark.parametrize(
    ("copy", "tables", "done"),
    [
        (Copy(), {TABLE}, []),
        (Copy(), set(), ["set"]),
        (Copy(CopyStage.CHECKPOINTING), set(), []),
        (Copy(CopyStage.CHECKPOINTING), {TABLE}, []),
        (Copy(CopyStage.ISOLATED), {TABLE}, []),
        (Copy(CopyStage.RUNNING, plan=None), {TABLE}, ["end"]),
        (Copy(CopyStage.RUNNING, plan=None), set(), []),
        (Copy(role=CopyRole.SECONDARY, plan=None), {TABLE}, ["end"]),
        (Copy(role=CopyRole.SECONDARY, plan=None), set(), []),
        (Copy(plan=PLAN.with_(nics=0)), set(), []),
    ],
    ids=[
        "in lockstep", "missing", "before the mark", "the mark is under way", "isolated", "left behind", "alone",
        "left to a secondary", "a secondary", "no NIC",
    ],
)  # fmt: skip
async def test_what_is_not_as_it_has_to_be_is_put_right(kernel, copy, tables, done):
    assert bool(await consent.keep(copy, tables)) is bool(done)
    assert kernel.calls == done


def test_a_guest_without_nics_has_no_rules():
    asyncio.run(rules.require(rules.Consent(UID, (), "eth1", "10.0.0.2", 21020)))  # nothing is asked of nft
