"""Asking a guest to shut itself down: a container's init, or whoever helps in another guest and then the power button.

A guest that boots misses the first times, so it is asked again. Whoever calls powers it off afterwards.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hostagent.drivers.guest.errors import GuestError
from hostagent.drivers.qemu import primary
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.machine import is_container
from vdc.model.process import Process

GRACE_S = 30
AGENT_GRACE_S = 90  # for a whole system that has said that it will
SYNC_S = 15  # for a container's file systems, beyond the time that its program is given
REPEAT_S = 5


def is_forced(copy: Copy) -> bool:
    """Whether the user has no patience."""
    endophyte = copy.host.mirror.endophyte(copy.name)
    return endophyte is not None and endophyte.force_off


async def ask_guest(copy: Copy) -> None:
    """Return when it is off, when its time is up, or when the user's patience is."""
    process, stop_s = copy.process, _stop_s(copy)
    if process is None:
        return
    asked = _ask_agent(copy) if stop_s is None else _ask_init(copy, stop_s)
    waiting = [
        asyncio.create_task(process.wait(), name=f"{copy.name} end"),
        asyncio.create_task(copy.powered_off.wait(), name=f"{copy.name} shutdown"),
        agent := asyncio.create_task(asked, name=f"{copy.name} asked"),
    ]
    now = asyncio.get_running_loop().time
    began_s = now()
    pressed_s = began_s if copy.agent.has_port else began_s - REPEAT_S
    try:
        while now() - began_s < _patience_s(stop_s, is_heard=_was_heard(agent)):
            if is_forced(copy) or copy.powered_off.is_set():
                return
            if stop_s is None and now() - pressed_s >= REPEAT_S:
                pressed_s = now()
                await _press_button(copy)
            done, _ = await asyncio.wait(waiting[:2], timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _stop_s(copy: Copy) -> int | None:
    """How long a container's program may take; None for other guests."""
    endophyte = copy.host.mirror.endophyte(copy.name)
    if endophyte is None or not is_container(endophyte):
        return None
    return (endophyte.manifest.spec.process or Process()).stop_seconds


def _patience_s(stop_s: int | None, *, is_heard: bool) -> int:
    if stop_s is None:
        return AGENT_GRACE_S if is_heard else GRACE_S
    return max(stop_s + SYNC_S, GRACE_S)


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


async def _ask_init(copy: Copy, seconds: int) -> bool:
    """Once, where it answers: a request that is given up would be called off in the guest."""
    while True:
        with suppress(QmpError, GuestError):
            await primary.resume(copy.session())
            async with await copy.line.open({"op": "stop", "seconds": seconds}) as stream:
                await stream.answer()
                return True
        await asyncio.sleep(REPEAT_S)


def _was_heard(asked: asyncio.Task[bool]) -> bool:
    return asked.done() and not asked.cancelled() and asked.exception() is None and asked.result()
