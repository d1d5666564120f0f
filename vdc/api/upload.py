"""Sending a blob to one agent, whatever happens on the way: what arrived is not sent again.

The agent may be restarted meanwhile, or another import may send the same blob: both are waited for, as long as
something moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from vdc.api.client import ApiClient
from vdc.model.errors import ConflictError, UnavailableError
from vdc.model.image import Blob

PATIENCE_S = 60.0  # without a byte
_RETRY_S = 0.5


async def send_blob(
    api: ApiClient,
    blob: Blob,
    content: Callable[[int], AsyncIterator[bytes]],
    *,
    patience_s: float = PATIENCE_S,
) -> bool:
    """Until the agent has it whole; False where it had it already. `content` gives the bytes from a place on.

    Raises InvalidError (`digest-mismatch`), RefusedError (`no-space`), UnavailableError when nothing moves any more.
    """
    loop = asyncio.get_running_loop()
    most, moved_at_s, is_first = -1, loop.time(), True
    while True:
        try:
            state = await api.blob_state(blob.digest)
            if state.is_whole:
                return not is_first
            is_first = False
            if state.received > most:
                most, moved_at_s = state.received, loop.time()
            if not state.is_busy:
                await _send(api, blob, content, state.received)
                return True
            trouble: Exception = UnavailableError(
                f"another import sends {blob.digest} and does not come on", code="upload-stalled"
            )
        except (UnavailableError, ConflictError) as error:
            trouble = error
        if loop.time() - moved_at_s > patience_s:
            raise trouble
        await asyncio.sleep(_RETRY_S)


async def _send(
    api: ApiClient, blob: Blob, content: Callable[[int], AsyncIterator[bytes]], first: int
) -> None:
    if blob.size_bytes == 0:
        await api.write_blob(blob.digest, lambda: content(0), 0)
    else:
        await api.write_blob(blob.digest, lambda: content(first), blob.size_bytes, first=first)
