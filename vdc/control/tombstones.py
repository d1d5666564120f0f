"""What remains in the store of a deleted VM: its uid, so that a host that was away knows what to do with its copy.

A copy without a record is not taken for deleted: a store that was restored from a backup, or replaced, lacks records
of VMs that run.
"""

from __future__ import annotations

from collections.abc import Mapping

from vdc.control.clock import Clock
from vdc.store import keys
from vdc.store.mirror import Mirror
from vdc.store.protocol import Delete, Put, StateStore

MOST = 10_000


def tombstone(uid: str, now: str, known: Mapping[str, str]) -> list[Put | Delete]:
    """Writes that note a deletion, and forget the oldest of `known` (times by uid) above MOST."""
    surplus = len(known) + 1 - MOST
    oldest = sorted(known, key=lambda one: known[one])[:surplus] if surplus > 0 else []
    return [Put(keys.deleted(uid), now), *(Delete(keys.deleted(one)) for one in oldest)]


async def bury(store: StateStore, mirror: Mirror, name: str, clock: Clock) -> tuple[str, ...]:
    """Let the copies go that hosts have of a VM which the cluster does not know. Returns those hosts."""
    orphans = [copy for copy in mirror.copies(name) if mirror.is_orphan(name, copy.uid)]
    writes = [write for uid in {copy.uid for copy in orphans} for write in tombstone(uid, clock.wall(), {})]
    if writes:
        await store.commit([], writes)
    return tuple(sorted(copy.host for copy in orphans))
