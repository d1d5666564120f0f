"""The line to a container's guest, on the primary's host alone: one connection for everybody who asks it something.

It is made when it is needed, and made anew after it broke: with another QEMU, or because the guest broke the rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hostagent.drivers.guest import GuestChannel, GuestStream


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
