"""What happens to interfaces and routes of the namespace, as the kernel tells it.

Events are hints: when the kernel drops some because nobody read in time, a MISSED event says so, and whoever
watches has to look at everything again.
"""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum

from hostagent.drivers.net.codec import ifinfmsg
from hostagent.drivers.net.messages import parse_link
from hostagent.drivers.net.netlink import open_socket, split

_RTMGRP_LINK, _RTMGRP_IPV4_ROUTE = 0x1, 0x40
OWN_ROUTE_PROTOCOL = 190  # the mark of the agent's routes; programs choose values above 4 freely
_RTM_NEWLINK, _RTM_DELLINK, _RTM_DELROUTE = 16, 17, 25
_RTM_PROTOCOL_OFFSET = 16 + 5  # behind the header: family, two lengths, tos, table, protocol

_IFINFO = struct.Struct("=16xBxHiII")  # behind the header: family, type, index, flags, changed flags


class EventKind(StrEnum):
    """What was reported."""

    LINK = "link"  # an interface is there, with this state
    LINK_GONE = "link-gone"
    ROUTE_GONE = "route-gone"  # an IPv4 route of the agent was deleted
    MISSED = "missed"  # events were lost


@dataclass(frozen=True, slots=True)
class NetworkEvent:
    """One event; the fields beside `kind` are filled for LINK and LINK_GONE only."""

    kind: EventKind
    ifname: str = ""
    is_up: bool = False
    has_carrier: bool = False


async def watch_network() -> AsyncIterator[NetworkEvent]:
    """Yield events until closed; the first one is MISSED, for what happened before the watch began."""
    sock = open_socket(_RTMGRP_LINK | _RTMGRP_IPV4_ROUTE)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    seen = _SeenFlags()
    try:
        yield NetworkEvent(EventKind.MISSED)
        while True:
            try:
                data = await loop.sock_recv(sock, 1 << 18)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield NetworkEvent(EventKind.MISSED)
                continue
            for _, kind, _, message in split(data):
                event = parse_event(kind, message) if seen.is_news(kind, message) else None
                if event is not None:
                    yield event
    finally:
        sock.close()


class _SeenFlags:
    """Drops the reports of a link whose flags are what they were, before they cost anything.

    A secondary's tap is reported twice with every checkpoint, because QEMU sets its offloads again.
    """

    def __init__(self) -> None:
        self._flags: dict[int, int] = {}

    def is_news(self, kind: int, data: bytes) -> bool:
        """Whether the message is worth parsing."""
        if kind not in (_RTM_NEWLINK, _RTM_DELLINK) or len(data) < _IFINFO.size:
            return True
        family, _, index, flags, _ = _IFINFO.unpack_from(data)
        if family != 0:
            return False
        if kind == _RTM_DELLINK:
            self._flags.pop(index, None)
            return True
        is_new: bool = self._flags.get(index) != flags
        self._flags[index] = flags
        return is_new


def parse_event(kind: int, data: bytes) -> NetworkEvent | None:
    """Read one message; None where it says nothing of interest."""
    if kind == _RTM_DELROUTE:
        is_own = len(data) > _RTM_PROTOCOL_OFFSET and data[_RTM_PROTOCOL_OFFSET] == OWN_ROUTE_PROTOCOL
        return NetworkEvent(EventKind.ROUTE_GONE) if is_own else None
    if kind not in (_RTM_NEWLINK, _RTM_DELLINK):
        return None
    message = ifinfmsg(data)
    message.decode()
    if message["family"] != 0:  # the bridge's view of a port
        return None
    link = parse_link(message)
    which = EventKind.LINK if kind == _RTM_NEWLINK else EventKind.LINK_GONE
    return NetworkEvent(which, link.name, link.is_up, link.has_carrier)
