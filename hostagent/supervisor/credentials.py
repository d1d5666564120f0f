"""How both copies of a pair come by their certificates: the primary's host makes them, the secondary's asks for one.

The primary makes its own before it listens, the secondary asks when it finds the primary listening. Either agent may
die at any step: what the primary made stays as it is under its epoch, and a secondary that begins again has a new
key and asks again. When the pair is in sync nobody needs another one, and the authority's key goes; with the epoch
the rest goes.
"""

from __future__ import annotations

import asyncio
from typing import Final

from hostagent.drivers.process import in_thread
from hostagent.supervisor.copy import Copy
from vdc.api import models as wire
from vdc.model.errors import ForbiddenError, NotFoundError, UnavailableError
from vdc.model.pair import Pair
from vdc.security.pairs import KeyAndRequest, qemu_files

ANSWER_S: Final = 30.0  # an agent that was restarted serves again by then
_AGAIN_S: Final = 0.5


async def make(copy: Copy, epoch: int) -> None:
    """The primary's: authority and own certificate. Idempotent; raises UnavailableError."""
    await in_thread(copy.credentials.make, epoch)


async def sign(copy: Copy, pair: Pair | None, request: wire.CredentialsRequest) -> wire.Credentials:
    """The primary's: a certificate for the secondary of this very epoch and nobody else.

    Who calls has been compared with `from_host`, the epoch with the copy's own. Raises ForbiddenError, InvalidError,
    and UnavailableError where the pair is past the time in which a secondary is prepared.
    """
    if pair is None or pair.epoch != request.epoch or pair.secondary != request.from_host:
        raise ForbiddenError(
            f"{request.from_host} is not the secondary of {copy.name} under epoch {request.epoch}",
            code="not-secondary",
        )
    authority, certificate = await in_thread(copy.credentials.sign, request.epoch, request.request)
    return wire.Credentials(authority=authority, certificate=certificate)


async def obtain(copy: Copy, pair: Pair) -> None:
    """The secondary's: a key that never leaves this host, and a certificate for it. Raises what the primary says."""
    own = KeyAndRequest.make()
    request = wire.CredentialsRequest(epoch=pair.epoch, from_host=copy.host.name, request=own.request)
    answer = await _ask(copy, pair, request)
    await in_thread(
        copy.credentials.keep, pair.epoch, qemu_files(answer.authority, answer.certificate, own.key)
    )


async def _ask(copy: Copy, pair: Pair, request: wire.CredentialsRequest) -> wire.Credentials:
    """A primary whose agent is just being restarted is asked again."""
    give_up_at_s = copy.host.clock.boottime_s() + ANSWER_S
    while True:
        try:
            return await copy.host.peer(pair.primary).peer_credentials(copy.name, request)
        except (UnavailableError, NotFoundError):
            if copy.host.clock.boottime_s() >= give_up_at_s:
                raise
        await asyncio.sleep(_AGAIN_S)
