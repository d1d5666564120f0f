"""Asking again for what a VM cannot do while its copies change places: a moment after a failover, or at its start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from vdc.model.errors import ConflictError

PATIENCE_S: Final = 60.0  # a new secondary is in lockstep after a few seconds
AGAIN_S: Final = 1.0

_T = TypeVar("_T")


async def once_settled(
    ask: Callable[[], Awaitable[_T]],
    told: Callable[[str], None],
    *,
    patience_s: float = PATIENCE_S,
    again_s: float = AGAIN_S,
) -> _T:
    """What `ask` answers as soon as it is not refused as `not-settled` any more; `told` hears what is waited for.

    Raises what `ask` raises, and after `patience_s` seconds that refusal too.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            return await ask()
        except ConflictError as error:
            if error.code != "not-settled" or time.monotonic() > end:
                raise
            told(f"waiting: {error}")
        await asyncio.sleep(again_s)
