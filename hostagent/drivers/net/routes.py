"""Routes that the agent owns: quick acknowledgements to the peers.

`quickack 1` on the route to a peer takes a checkpoint's pause from 47 ms to 16-19 ms (the migration stream
suffers from Nagle with delayed acknowledgement). It is a /32 route beside the connected one, so nothing that
the administrator configured is changed. The kernel deletes it when the interface is set down: `keep` puts it
back.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import IPv4Address
from typing import Any

from hostagent.drivers.net import messages
from hostagent.drivers.net.codec import rtmsg
from hostagent.drivers.net.errors import KernelRefusedError
from hostagent.drivers.net.netlink import Netlink, Request
from hostagent.drivers.net.segment import find_link
from hostagent.drivers.net.watch import OWN_ROUTE_PROTOCOL, EventKind, watch_network
from vdc.model.errors import UnavailableError

_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWRULE, _RTM_DELRULE = 32, 33
_TABLE_MAIN = 254
_DETOUR_TABLE = _DETOUR_PRIORITY = 7411
_RETRY_S = 1.0
_SCOPE_LINK, _SCOPE_UNIVERSE = 253, 0
_UNICAST = 1
_FR_ACT_TO_TBL = 1
_LATER = frozenset({errno.ENETDOWN, errno.ENODEV, errno.ENETUNREACH, errno.EINVAL, errno.EHOSTUNREACH})


def _route_message(
    peer: IPv4Address, oif: int, *, gateway: str | None, source: IPv4Address | None, table: int
) -> Any:
    message = rtmsg()
    message["family"] = socket.AF_INET
    message["dst_len"] = 32
    message["proto"] = OWN_ROUTE_PROTOCOL
    message["type"] = _UNICAST
    message["scope"] = _SCOPE_UNIVERSE if gateway else _SCOPE_LINK
    message["table"] = table if table < 256 else 0
    message["attrs"] = [("RTA_DST", str(peer)), ("RTA_OIF", oif), ("RTA_TABLE", table)]
    if gateway:
        message["attrs"].append(("RTA_GATEWAY", gateway))
    if source:
        message["attrs"].append(("RTA_PREFSRC", str(source)))
    return message


def quickack_route(peer: IPv4Address, oif: int, source: IPv4Address, gateway: str | None) -> Request:
    """The /32 route to a peer with quick acknowledgements."""
    message = _route_message(peer, oif, gateway=gateway, source=source, table=_TABLE_MAIN)
    message["attrs"].append(("RTA_METRICS", {"attrs": [("RTAX_QUICKACK", 1)]}))
    flags = messages.NLM_F_CREATE | messages.NLM_F_REPLACE
    return Request(f"route to {peer} with quickack", _RTM_NEWROUTE, flags, message)


def _delete_route(peer: IPv4Address, table: int) -> Request:
    message = rtmsg()
    message["family"] = socket.AF_INET
    message["dst_len"] = 32
    message["proto"] = OWN_ROUTE_PROTOCOL
    message["scope"] = 255  # any
    message["table"] = table if table < 256 else 0
    message["attrs"] = [("RTA_DST", str(peer)), ("RTA_TABLE", table)]
    tolerate = frozenset({errno.ESRCH, errno.ENOENT})
    return Request(f"delete the route to {peer}", _RTM_DELROUTE, 0, message, tolerate)


def _lookup_route(peer: IPv4Address, oif: int) -> Request:
    message = rtmsg()
    message["family"] = socket.AF_INET
    message["dst_len"] = 32
    message["attrs"] = [("RTA_DST", str(peer)), ("RTA_OIF", oif)]
    return Request(f"look up the route to {peer}", _RTM_GETROUTE, 0, message, _LATER)


class ReplicationRoutes:
    """Keeps `quickack 1` on the routes to the peers over this host's replication network."""

    def __init__(self, *, interface: str, address: IPv4Address | str, netlink: Netlink | None = None) -> None:
        self._interface = interface
        self._address = IPv4Address(address)
        self._netlink = netlink or Netlink()
        self._owns_netlink = netlink is None
        self._peers: set[IPv4Address] = set()

    async def close(self) -> None:
        """Release the socket; the routes stay."""
        if self._owns_netlink:
            await self._netlink.close()

    async def set_quickack(self, peer_address: IPv4Address | str) -> bool:
        """Remember the peer and set its route; False while the interface is down (`keep` sets it later)."""
        peer = IPv4Address(peer_address)
        self._peers.add(peer)
        return await self._netlink.run(f"quickack to {peer}", lambda: self._apply(peer))

    async def clear_quickack(self, peer_address: IPv4Address | str) -> None:
        """Forget the peer and delete its route."""
        peer = IPv4Address(peer_address)
        self._peers.discard(peer)
        await self._netlink.batch([_delete_route(peer, _TABLE_MAIN)])

    async def reapply(self) -> bool:
        """Set the routes of all remembered peers again; returns whether all could be set."""
        peers = sorted(self._peers)
        return await self._netlink.run("quickack", lambda: all([self._apply(peer) for peer in peers]))

    async def keep(self) -> None:
        """Run until cancelled: put the routes back whenever the interface or a route of it went away."""
        async for event in watch_network():
            is_ours = event.ifname == self._interface and event.is_up
            if is_ours or event.kind in (EventKind.ROUTE_GONE, EventKind.MISSED):
                await self._reapply_until_done()

    async def _reapply_until_done(self) -> None:
        while True:
            try:
                await self.reapply()
                return
            except UnavailableError:  # a kernel that is busy now; nothing else would ask again
                await asyncio.sleep(_RETRY_S)

    def _apply(self, peer: IPv4Address) -> bool:
        link = find_link(self._netlink, self._interface)
        if link is None or not link.is_up:
            return False
        answer = self._netlink.query_now(_lookup_route(peer, link.index))
        gateway = None if answer is None else answer.get_attr("RTA_GATEWAY")
        try:
            self._netlink.batch_now([quickack_route(peer, link.index, self._address, gateway)])
        except KernelRefusedError as error:
            if error.number in _LATER:
                return False
            raise
        return True
