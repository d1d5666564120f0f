"""Freezing a guest's file systems for a moment, by whoever helps inside it; thawed in every case.

A container's init thaws by itself after `HELD_S`. QEMU's guest agent does not: whoever becomes responsible for a
snapshot that was not finished thaws (`snapshotting`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from hostagent.supervisor.copy import Copy
from hostagent.supervisor.guestagent import agent_of
from hostagent.supervisor.guestline import line_to
from hostagent.supervisor.machine import is_container
from vdc.model.endophyte import Endophyte
from vdc.model.errors import ConflictError, VdcError

HELD_S: Final = 15
_ASK_S: Final = 20.0
_THAW_S: Final = 120.0  # QEMU's guest agent answers to nothing while it freezes, however long that takes
_AGAIN_S: Final = 0.5


@asynccontextmanager
async def frozen(copy: Copy, endophyte: Endophyte) -> AsyncIterator[int]:
    """The file systems hold still and whole for the time of the block; how many.

    Raises VdcError: why they cannot be frozen, ConflictError (`quiesce-late`) where the block took too long.
    """
    freeze = await _found(copy, endophyte)
    try:
        count = await _in_time(copy, freeze)
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


async def _found(copy: Copy, endophyte: Endophyte) -> Callable[[], Awaitable[int]]:
    """How to freeze it. Where nobody answers there is nothing to thaw either. Raises VdcError."""
    if not is_container(endophyte):
        return (await agent_of(copy)).freeze
    line = await line_to(copy)

    async def freeze() -> int:
        count = (await line.ask("freeze", deadline_s=_ASK_S, seconds=HELD_S)).get("frozen")
        return count if isinstance(count, int) else 0

    return freeze


async def _in_time(copy: Copy, freeze: Callable[[], Awaitable[int]]) -> int:
    try:
        async with asyncio.timeout(_ASK_S):
            return await freeze()
    except TimeoutError as error:
        raise ConflictError(
            f"{copy.name} did not write out its disks within {_ASK_S:g} s",
            code="quiesce-late", hint="try again, or without --quiesce",
        ) from error  # fmt: skip


async def thaw(copy: Copy) -> None:
    """Let the guest write again; harmless where it does. Raises nothing: a guest that does not answer is logged."""
    endophyte = copy.host.mirror.endophyte(copy.name)
    if endophyte is None or not copy.is_alive:
        return
    why: Exception | None = None
    with suppress(TimeoutError):
        async with asyncio.timeout(_THAW_S):
            while copy.is_alive:
                try:
                    await _thaw(copy, endophyte)
                    return
                except (VdcError, TimeoutError) as error:
                    why = error
                await asyncio.sleep(_AGAIN_S)
    copy.host.log.warning("a guest may still be frozen", endophyte=copy.name, why=str(why))


async def _thaw(copy: Copy, endophyte: Endophyte) -> None:
    async with asyncio.timeout(_ASK_S):
        if is_container(endophyte):
            await copy.line.ask("thaw", deadline_s=_ASK_S)
        else:
            await copy.agent.line.thaw()
