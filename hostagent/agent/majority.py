"""Watching whether the cluster can decide, and saying so: by an event, by the doctor, and by what is shown.

While the store is lost its leases say nothing about who lives; what this agent hears of its peers itself is
shown instead. Nothing is decided by that: every decision takes the store. When the store answers again, what was
shown before is of another time: it is lost until everything has been read anew.
"""

from __future__ import annotations

import asyncio

from hostagent.server.majority import notes_of
from hostagent.supervisor.node import NodeContext
from vdc.api.models import Check
from vdc.model.event import Severity
from vdc.protection.majority import pair_without_witness
from vdc.store.etcd_admin import MemberStatus

LOOK_EVERY_S = 0.5


async def watch_majority(host: NodeContext) -> None:
    """Never returns."""
    was_silent = was_lost = False
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        is_silent = host.is_store_lost and host.mirror.synced.is_set()
        if was_silent and not is_silent:
            host.mirror.read_again()
        was_silent = is_silent
        is_lost = is_silent or (was_lost and not host.mirror.is_current)
        if is_silent:
            peers = (name for name in host.mirror.hosts if name != host.name)
            host.mirror.silent = frozenset(name for name in peers if host.heartbeats.is_silent(name))
        elif not is_lost:
            host.mirror.silent = frozenset()
        if is_lost == was_lost:
            continue
        was_lost = is_lost
        if is_lost:
            await host.tell_of_node("majority-lost", _lost_sentence(host))
        else:
            await host.tell_of_node(
                "majority-back", "a majority of the etcd members answers again", Severity.NORMAL
            )


def _lost_sentence(host: NodeContext) -> str:
    embedded = host.config.etcd.embedded
    silent = ", ".join(sorted(host.mirror.silent)) or "no host"
    sentence = f"no majority of the etcd members answers; {silent} cannot be heard; nothing can be changed"
    if embedded is not None and (note := pair_without_witness(len(embedded.members))) is not None:
        return f"{sentence}; {note}"
    return sentence


def majority_checks(
    host: NodeContext, members: tuple[MemberStatus, ...], is_left_out: bool
) -> tuple[Check, ...]:
    """What the doctor says about deciding; the number of members that answer is a check of its own."""
    found = [Check(name="majority", level="warning", sentence=note, hint="docs: Two hosts and a witness")
             for note in notes_of(host, members)]  # fmt: skip
    if is_left_out:
        found.append(
            Check(
                name="lineage", level="error",
                sentence=f"the etcd member of {host.name} was left out when lineage {host.lineage} began",
                hint=f"run on {host.name}: hostagent rejoin, then restart its agent",
            )
        )  # fmt: skip
    return tuple(found)
