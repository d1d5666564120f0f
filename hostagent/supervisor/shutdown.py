"""Asking a guest to shut itself down: whoever helps in the guest first, then the power button, again and again."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hostagent.drivers.guest.errors import GuestError
from hostagent.drivers.qemu import primary
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.supervisor.copy import Copy

GRACE_S = 30
AGENT_GRACE_S = 90  # for a whole system that has said that it will
REPEAT_S = 5  # a guest that boots misses the first ones


def is_forced(copy: Copy) -> bool:
    """Whether the user has no patience."""
    endophyte = copy.host.mirror.endophyte(copy.name)
    return endophyte is not None and endophyte.force_off


async def ask_guest(copy: Copy) -> None:
    """Return when it is off, when its time is up, or when the user's patience is."""
    process = copy.process
    if process is None:
        return
    waiting = [
        asyncio.create_task(process.wait(), name=f"{copy.name} end"),
        asyncio.create_task(copy.powered_off.wait(), name=f"{copy.name} shutdown"),
        agent := asyncio.create_task(_ask_agent(copy), name=f"{copy.name} guest agent"),
    ]
    try:
        second = 0
        while second < (AGENT_GRACE_S if _was_heard(agent) else GRACE_S):
            if is_forced(copy) or copy.powered_off.is_set():
                return
            if second % REPEAT_S == 0 and not (second == 0 and copy.agent.has_port):
                await _press_button(copy)
            done, _ = await asyncio.wait(waiting[:2], timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
            second += 1
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _press_button(copy: Copy) -> None:
    with suppress(QmpError):  # it may be gone already; whoever waits is told
        await primary.resume(copy.session())
        await copy.session().execute(Command.SYSTEM_POWERDOWN)


async def _ask_agent(copy: Copy) -> bool:
    """Whether it was heard. A paused guest has to run for that."""
    if not copy.agent.has_port:
        return False
    try:
        await primary.resume(copy.session())
        await copy.agent.line.shut_down()
    except (GuestError, QmpError):
        return False
    return True


def _was_heard(asked: asyncio.Task[bool]) -> bool:
    return asked.done() and not asked.cancelled() and asked.exception() is None and asked.result()
