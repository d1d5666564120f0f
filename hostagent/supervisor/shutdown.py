"""Asking a guest to end by itself, and waiting for that: a VM by its power button, a container by its init.

Asked until it has heard: one that boots misses the first times. Whoever calls powers it off afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from hostagent.drivers.guest import GuestError
from hostagent.drivers.qemu import primary
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.qmp import QmpError
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.machine import is_container
from vdc.model.process import Process

SHUTDOWN_GRACE_S = 30
SHUTDOWN_REPEAT_S = 5  # a guest that boots misses the first ones
SYNC_S = 15  # for a container's file systems, beyond the time that its program is given


def is_forced(copy: Copy) -> bool:
    """Whether the user has no patience."""
    endophyte = copy.host.mirror.endophyte(copy.name)
    return endophyte is not None and endophyte.force_off


async def ask_guest(copy: Copy) -> None:
    """Return when the guest has powered itself off, its process has ended, its time is up or the user wants no more."""
    process = copy.process
    if process is None:
        return
    asking, patience_s = _way(copy)
    waiting = [
        asyncio.create_task(process.wait(), name=f"{copy.name} end"),
        asyncio.create_task(copy.powered_off.wait(), name=f"{copy.name} shutdown"),
    ]
    asked = asyncio.create_task(asking, name=f"{copy.name} asked")
    try:
        for _ in range(patience_s):
            if is_forced(copy) or copy.powered_off.is_set():
                return
            done, _ = await asyncio.wait(waiting, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
    finally:
        for task in (*waiting, asked):
            task.cancel()
        await asyncio.gather(*waiting, asked, return_exceptions=True)


def _way(copy: Copy) -> tuple[Coroutine[Any, Any, None], int]:
    endophyte = copy.host.mirror.endophyte(copy.name)
    if endophyte is None or not is_container(endophyte):
        return _press_button(copy), SHUTDOWN_GRACE_S
    seconds = (endophyte.manifest.spec.process or Process()).stop_seconds
    return _ask_init(copy, seconds), max(seconds + SYNC_S, SHUTDOWN_GRACE_S)


async def _press_button(copy: Copy) -> None:
    while True:
        with suppress(QmpError):  # it may be gone already; whoever waits sees that
            await primary.resume(copy.session())
            await copy.session().execute(Command.SYSTEM_POWERDOWN)
        await asyncio.sleep(SHUTDOWN_REPEAT_S)


async def _ask_init(copy: Copy, seconds: int) -> None:
    """Once, where it answers: a request that is given up would be called off in the guest."""
    while True:
        with suppress(QmpError, GuestError):
            await primary.resume(copy.session())
            async with await copy.line.open({"op": "stop", "seconds": seconds}) as stream:
                await stream.answer()
                return
        await asyncio.sleep(SHUTDOWN_REPEAT_S)
