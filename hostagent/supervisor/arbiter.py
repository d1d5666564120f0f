"""Winning the right to speak: one compare-and-swap on the pair's record, sent to every member at once.

Raises nothing away: won, lost, or unknown. Unknown means that nothing may be done to QEMU.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from hostagent.supervisor.node import NodeContext
from vdc.model.errors import FencedError, NotFoundError
from vdc.model.pair import Pair
from vdc.protection.invariants import check_transition
from vdc.store import keys
from vdc.store.arbitration import Lost, arbitrate
from vdc.store.protocol import KeyValue

DEADLINE_S = 3.0

Next = Callable[[Pair, str, str], Pair]  # (present, request id, now) -> the next version


async def swap_pair(host: NodeContext, name: str, epoch: int, following: Next) -> Pair:
    """Commit `following` of the pair as this host last saw it under `epoch`.

    Returns the new version, which the mirror shows from then on. Raises FencedError where somebody else was
    faster, UnknownOutcomeError or StoreUnavailableError where nothing is known; the mirror's view is then
    brought up to date by its watch, and the next decision starts from there.
    """
    present = host.mirror.pairs.get(name)
    if present is None:
        raise NotFoundError(f"there is no record of who may speak for {name}", code="no-pair")
    if present.value.epoch != epoch:
        raise FencedError(f"{name} is at epoch {present.value.epoch}, not {epoch} any more")
    request = uuid.uuid4().hex
    after = following(present.value, request, host.clock.wall())
    after = after.with_(lineage=max(after.lineage, host.lineage))
    check_transition(present.value, after)
    key = keys.pair(name)
    outcome = await arbitrate(
        host.store, key, present.revision, after.to_json(), request, deadline_s=DEADLINE_S
    )
    host.store_heard_at_s = host.clock.boottime_s()
    if isinstance(outcome, Lost):
        if outcome.current is not None:
            host.mirror.apply_early(outcome.current)
        shown = host.mirror.pair(name)
        raise FencedError(
            f"another change of {name} came first: epoch {shown.epoch if shown else 'unknown'} is in force"
        )
    if outcome.is_superseded:
        if outcome.current is not None:
            host.mirror.apply_early(outcome.current)
        raise FencedError(f"{name} has been changed again since")
    host.mirror.apply_early(KeyValue(key, after.to_json(), outcome.revision, 0))
    return after
