"""The line to a container's guest, on the primary's host alone: one connection for everybody who asks it something.

It is made when it is needed, and made anew after it broke: with another QEMU, or because the guest broke the rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostagent.drivers.guest import GuestChannel, GuestStream
from hostagent.supervisor.machine import is_container
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import ConflictError, RefusedError

if TYPE_CHECKING:
    from hostagent.supervisor.copy import Copy


class GuestLine:
    """One per copy. Closed when the copy ends or its role is lost; whoever has the right to ask opens it again."""

    def __init__(self, socket: Path, guest: str) -> None:
        self._socket = socket
        self._guest = guest
        self._channel: GuestChannel | None = None
        self._connecting = asyncio.Lock()

    async def channel(self) -> GuestChannel:
        """Raises GuestGoneError where nothing answers."""
        async with self._connecting:
            if self._channel is None or self._channel.closed.is_set():
                await self._drop()
                self._channel = await GuestChannel.connect(self._socket, guest=self._guest)
            return self._channel

    async def open(self, request: Mapping[str, Any]) -> GuestStream:
        """Begin a request. Raises GuestError's kin."""
        return await (await self.channel()).open(request)

    async def ask(self, operation: str, *, deadline_s: float, **fields: object) -> Mapping[str, Any]:
        """A request without input or output. Raises GuestError's kin."""
        return await (await self.channel()).ask(operation, deadline_s=deadline_s, **fields)

    async def close(self) -> None:
        """Idempotent; whoever waits for an answer is told."""
        async with self._connecting:
            await self._drop()

    async def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


async def line_to(copy: Copy) -> GuestLine:
    """The line for whoever asks by way of the API; it answers. Raises VdcError: why not."""
    endophyte, name = copy.host.mirror.endophyte(copy.name), copy.name
    if endophyte is None or not is_container(endophyte):
        raise RefusedError(
            f"{name} is no container: nothing of ours is in its guest",
            hint=f"vdc console {name}, or ssh", code="no-container",
        )  # fmt: skip
    require_running(copy)
    await copy.line.channel()
    return copy.line


def require_running(copy: Copy) -> None:
    """Raises ConflictError where this copy's guest is not the one that may be asked, or stands still."""
    name = copy.name
    if copy.state.role is not CopyRole.PRIMARY or not copy.is_alive:
        raise ConflictError(f"{name} does not run on {copy.host.name} any more", code="not-running")
    if copy.state.stage in (CopyStage.PAUSED, CopyStage.ISOLATED):
        raise ConflictError(f"{name} is {copy.state.stage}", code="paused", hint=f"vdc start {name}")
