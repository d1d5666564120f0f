"""One member taking the place of another in a cluster that goes on, as the members that remain see it."""

from __future__ import annotations

from vdc.store.etcd import EtcdStore
from vdc.store.protocol import StoreUnavailableError


async def replaced(store: EtcdStore, names: set[str], peer: str) -> bool:
    """Take one step; True when the cluster waits for a new member at `peer` instead of those with these names."""
    try:
        members = await store.admin.members()
        old = [one for one in members if one.name in names or (peer in one.peer_urls and one.name)]
        for one in old:
            await store.admin.remove_member(one.member_id)
        if old or not any(peer in one.peer_urls for one in members):
            await store.admin.add_member(peer)
    except StoreUnavailableError:
        return False  # the cluster is unsettled just after a change; asking again is safe
    return True


async def initial_cluster(store: EtcdStore, host: str, peer: str) -> str:
    """All members as the cluster has them, in the form that etcd wants from one that joins."""
    members = await store.admin.members()
    return ",".join(
        f"{host if peer in one.peer_urls else one.name}={url}" for one in members for url in one.peer_urls
    )
