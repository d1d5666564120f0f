"""Freezing a guest's file systems for a moment, by whoever helps inside it; thawed in every case.

A container's init thaws by itself after `HELD_S`. QEMU's guest agent does not: whoever becomes responsible for a
snapshot that was not finished thaws (`snapshotting`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from hostagent.drivers.guest import GuestError
from hostagent.supervisor.copy import Copy
from hostagent.supervisor.guestagent import agent_of
from hostagent.supervisor.guestline import line_to
from hostagent.supervisor.machine import is_container
from vdc.model.endophyte import Endophyte
from vdc.model.errors import ConflictError, VdcError

HELD_S: Final = 15
_ASK_S: Final = 20.0
_ATTEMPTS: Final = 3


@asynccontextmanager
async def frozen(copy: Copy, endophyte: Endophyte) -> AsyncIterator[int]:
    """The file systems hold still and whole for the time of the block; how many.

    Raises VdcError: why they cannot be frozen, ConflictError (`quiesce-late`) where the block took too long.
    """
    try:
        count = await _freeze(copy, endophyte)
        began = asyncio.get_running_loop().time()
        yield count
        took_s = asyncio.get_running_loop().time() - began
    finally:
        await asyncio.shield(thaw(copy))
    if took_s > HELD_S / 2:
        raise ConflictError(
            f"the disks took {took_s:.1f} s to hold still, longer than a guest may be frozen",
            code="quiesce-late", hint="try again, or without --quiesce",
        )  # fmt: skip


async def _freeze(copy: Copy, endophyte: Endophyte) -> int:
    async with asyncio.timeout(_ASK_S):
        if is_container(endophyte):
            answer = await (await line_to(copy)).ask("freeze", deadline_s=_ASK_S, seconds=HELD_S)
            count = answer.get("frozen")
            return count if isinstance(count, int) else 0
        return await (await agent_of(copy)).freeze()


async def thaw(copy: Copy) -> None:
    """Let the guest write again; harmless where it does. Raises nothing: a guest that does not answer is logged."""
    endophyte = copy.host.mirror.endophyte(copy.name)
    if endophyte is None or not copy.is_alive:
        return
    why: Exception | None = None
    for _ in range(_ATTEMPTS):
        try:
            async with asyncio.timeout(_ASK_S):
                if is_container(endophyte):
                    await copy.line.ask("thaw", deadline_s=_ASK_S)
                else:
                    await copy.agent.line.thaw()
        except (GuestError, VdcError, TimeoutError) as error:
            why = error
            with suppress(asyncio.TimeoutError):
                await asyncio.sleep(0.5)
        else:
            return
    copy.host.log.warning("a guest may still be frozen", endophyte=copy.name, why=str(why))
