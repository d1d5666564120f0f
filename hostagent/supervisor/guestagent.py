"""QEMU's guest agent in a disk image, listened to on the primary's host: does it answer, and with which addresses.

Nothing waits for it and nothing is decided by it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hostagent.drivers.guest.agent import GuestAgent
from hostagent.drivers.guest.errors import GuestError, GuestRefusedError
from hostagent.drivers.guest.qga import QemuGuestAgent
from hostagent.drivers.qemu.spec import AGENT_SOCKET
from hostagent.supervisor.guestline import require_running
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.guest import AgentStatus

if TYPE_CHECKING:
    from hostagent.supervisor.copy import Copy

ANSWERED_EVERY_S = 30.0
FIRST_RETRY_S, LAST_RETRY_S = 2.0, 60.0
BOOT_S = 300.0  # in which an agent is likely to begin to answer
_SPEAKS = (CopyStage.RUNNING, CopyStage.ENTERING, CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP)


class AgentWatch:
    """One per copy. `line`: whoever has something else to ask the agent; `status`: what it has said."""

    def __init__(self, copy: Copy) -> None:
        self.line = QemuGuestAgent(copy.guest / AGENT_SOCKET)
        self.status: AgentStatus | None = None
        self.task: asyncio.Task[None] | None = None
        self._copy = copy
        self._due_s = 0.0
        self._retry_s = FIRST_RETRY_S
        self._since_s: float | None = None  # that there is one to be asked

    @property
    def has_port(self) -> bool:
        """Whether the guest was powered on with a port at which an agent may answer."""
        machine = self._copy.state.machine
        return machine is not None and machine.has_agent_port

    def look(self) -> None:
        """Ask, where that is due and possible; never waits."""
        copy, now = self._copy, self._copy.host.clock.boottime_s()
        if not (copy.is_alive and self.has_port and copy.state.role is CopyRole.PRIMARY):
            self._due_s, self._retry_s, self._since_s, self.status = 0.0, FIRST_RETRY_S, None, None
            return
        self._since_s = now if self._since_s is None else self._since_s
        if copy.state.stage not in _SPEAKS or now < self._due_s or (self.task and not self.task.done()):
            return
        self._due_s = now + LAST_RETRY_S
        self.task = asyncio.create_task(self._ask(copy.pid), name=f"{copy.name} guest agent")

    async def _ask(self, pid: int | None) -> None:
        """What the process `pid` says; an answer that another one has taken the place of counts for nothing."""
        copy = self._copy
        status, now = await ask_status(self.line), copy.host.clock.boottime_s()
        if status.is_answering:
            pause_s, self._retry_s = ANSWERED_EVERY_S, FIRST_RETRY_S
        else:
            pause_s = self._retry_s
            if now - (self._since_s or 0.0) > BOOT_S:
                self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
        self._due_s = now + pause_s
        if copy.pid == pid and self.status != status:
            self.status = status
            copy.wake()


async def ask_status(agent: GuestAgent) -> AgentStatus:
    """Raises nothing that a guest can cause."""
    try:
        return AgentStatus(is_answering=True, interfaces=await agent.interfaces())
    except GuestRefusedError:  # it may not say, but it is there
        return AgentStatus(is_answering=True)
    except GuestError:
        return AgentStatus()


async def agent_of(copy: Copy) -> GuestAgent:
    """The agent for whoever asks by way of the API; it answers. Raises VdcError: why not."""
    require_running(copy)
    await copy.agent.line.ping()
    return copy.agent.line
