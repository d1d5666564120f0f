"""Can the cluster still decide? From the members' answers and the records to sentences."""

from __future__ import annotations

from hostagent.supervisor.node import NodeContext
from vdc.protection.majority import notes
from vdc.store.etcd_admin import MemberStatus


def notes_of(host: NodeContext, members: tuple[MemberStatus, ...]) -> tuple[str, ...]:
    """What should worry somebody about the cluster as a whole, most important first."""
    mirror = host.mirror
    witnesses = (name for name, found in sorted(mirror.hosts.items()) if found.value.is_witness)
    lost = tuple(name for name in witnesses if name != host.name and name not in mirror.alive)
    is_own = host.config.etcd.embedded is not None
    healthy = sum(member.is_healthy for member in members)
    return notes(len(members), healthy, lost) if is_own and members else ()
