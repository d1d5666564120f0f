"""How long a guest that was just powered on is left alone before its memory is copied."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hostagent.drivers.process.handle import ProcessorTime
from hostagent.supervisor import booting
from hostagent.supervisor.booting import BOOT_LIMIT_S, SHARE_LIMIT, SYSTEM_BOOT_LIMIT_S, boot_settled
from vdc.model.guest import AgentStatus

STEP_S = 0.5  # between two looks at the played clock


class Guest:
    """Wants all of a processor for `boots_s` of it, and gets `share` of that; then it rests."""

    def __init__(self, *, boots_s: float = 1e9, share: float = 1.0, accelerator: str = "tcg") -> None:
        self.boots_s, self.share = boots_s, share
        self.time = ProcessorTime(0.0, 0.0)
        self.now_s = 1000.0
        host = SimpleNamespace(
            clock=SimpleNamespace(boottime_s=lambda: self.now_s),
            record=SimpleNamespace(accelerator=SimpleNamespace(name=accelerator)),
        )
        agent = SimpleNamespace(has_port=False, status=None)
        self.copy: Any = SimpleNamespace(host=host, process=self, booting_since_s=self.now_s, agent=agent)

    def processor_time(self) -> ProcessorTime:
        return self.time

    async def pass_time(self, _: float) -> None:
        self.now_s += STEP_S
        if self.time.ran_s < self.boots_s:
            ran_s = STEP_S * self.share
            self.time = ProcessorTime(self.time.ran_s + ran_s, self.time.waited_s + STEP_S - ran_s)

    async def settled_after_s(self, monkeypatch: pytest.MonkeyPatch) -> float:
        monkeypatch.setattr(booting.asyncio, "sleep", self.pass_time)
        began_s = self.now_s
        await boot_settled(self.copy)
        return self.now_s - began_s


async def test_a_guest_that_rests_has_booted(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(boots_s=5)
    assert await guest.settled_after_s(monkeypatch) == 5 + 2 * STEP_S
    assert guest.copy.booting_since_s is None


async def test_a_guest_that_never_rests_is_waited_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Guest().settled_after_s(monkeypatch) == BOOT_LIMIT_S


async def test_a_guest_on_a_busy_host_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Guest(boots_s=20, share=0.5).settled_after_s(monkeypatch) == 40 + 2 * STEP_S


async def test_that_has_an_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Guest(share=0.1).settled_after_s(monkeypatch) == SHARE_LIMIT * BOOT_LIMIT_S


async def test_a_whole_system_rests_longer_unless_its_agent_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(boots_s=60)
    guest.copy.agent.has_port = True
    assert await guest.settled_after_s(monkeypatch) == 60 + 20 * STEP_S
    guest = Guest(boots_s=60)
    guest.copy.agent = SimpleNamespace(has_port=True, status=AgentStatus(is_answering=True))
    assert await guest.settled_after_s(monkeypatch) == 60 + 2 * STEP_S
    guest = Guest()
    guest.copy.agent.has_port = True
    assert await guest.settled_after_s(monkeypatch) == SYSTEM_BOOT_LIMIT_S


async def test_what_has_booted_or_is_not_emulated_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest()
    guest.copy.booting_since_s = None
    assert await guest.settled_after_s(monkeypatch) == 0
    assert await Guest(accelerator="kvm").settled_after_s(monkeypatch) == 0
