"""The rtnetlink messages that the overlay needs: built as `Request`, read back as small records. No I/O.

Every request may be repeated: creating tolerates that the thing exists, deleting that it is gone.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from hostagent.drivers.net.codec import ifaddrmsg, ifinfmsg, ndmsg
from hostagent.drivers.net.netlink import Request

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
IFF_UP, IFF_NOARP, IFF_LOWER_UP = 0x1, 0x80, 0x10000
AF_BRIDGE = 7
NTF_SELF, NTF_MASTER, NTF_STICKY = 0x02, 0x04, 0x40
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
STATIC = NUD_NOARP | NUD_PERMANENT
FLOOD_MAC = "00:00:00:00:00:00"
_RTEXT_FILTER_SKIP_STATS = 8
_ADDR_GEN_MODE_NONE = 1
_GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ENXIO, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel reports it; `options` are the attributes of its kind."""

    index: int
    name: str
    kind: str
    alias: str
    master: int
    mtu: int
    mac: str
    flags: int
    options: dict[str, Any]

    @property
    def is_up(self) -> bool:
        """Whether it is set up."""
        return bool(self.flags & IFF_UP)

    @property
    def has_carrier(self) -> bool:
        """Whether something is plugged in; for a tap: whether a process has it open."""
        return bool(self.flags & IFF_LOWER_UP)


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """One line of a forwarding database; `vtep` is None where the entry has no destination (a black hole)."""

    mac: str
    vtep: str | None
    is_static: bool


def _link_message(index: int, ifname: str, attrs: Iterable[tuple[str, Any]]) -> Any:
    message = ifinfmsg()
    message["index"] = index
    message["attrs"] = [("IFLA_IFNAME", ifname), *attrs] if ifname else list(attrs)
    return message


def get_link(ifname: str) -> Request:
    """Ask for one interface by name."""
    message = _link_message(0, ifname, [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)])
    return Request(f"look up {ifname}", RTM_GETLINK, 0, message, _GONE)


def get_links() -> Request:
    """Ask for all interfaces (a dump)."""
    message = _link_message(0, "", [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)])
    return Request("list interfaces", RTM_GETLINK, 0, message)


def create_link(ifname: str, kind: str, options: dict[str, Any], mac: str | None = None) -> Request:
    """Create an interface, down; `options` are attributes of its kind, for example IFLA_VXLAN_ID."""
    info = [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": list(options.items())})]
    attrs: list[tuple[str, Any]] = [("IFLA_LINKINFO", {"attrs": info})]
    if mac:
        attrs.append(("IFLA_ADDRESS", mac))
    message = _link_message(0, ifname, attrs)
    return Request(f"create {ifname}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, message)


def configure_link(ifname: str, kind: str, options: dict[str, Any]) -> Request:
    """Change attributes of an interface's kind."""
    info = [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": list(options.items())})]
    return Request(
        f"configure {ifname}", RTM_NEWLINK, 0, _link_message(0, ifname, [("IFLA_LINKINFO", {"attrs": info})])
    )


def mark_link(ifname: str, alias: str, mtu: int, group: int = 0) -> Request:
    """Set the ownership tag, the MTU and the interface group."""
    attributes = [("IFLA_IFALIAS", alias), ("IFLA_MTU", mtu), ("IFLA_GROUP", group)]
    message = _link_message(0, ifname, attributes)
    return Request(f"tag {ifname}", RTM_NEWLINK, 0, message)


def silence_ipv6(ifname: str) -> Request:
    """Keep the host from giving itself an IPv6 address here; refused (harmlessly) where IPv6 is off."""
    spec = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]})]}
    message = _link_message(0, ifname, [("IFLA_AF_SPEC", spec)])
    tolerate = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL})
    return Request(f"silence IPv6 on {ifname}", RTM_NEWLINK, 0, message, tolerate)


def set_up(ifname: str, *, master: int | None = None, noarp: bool = False, mac: str | None = None) -> Request:
    """Set an interface up and, where given, into (`master`) or out of (0) a bridge, in one message."""
    attrs: list[tuple[str, Any]] = []
    if master is not None:
        attrs.append(("IFLA_MASTER", master))
    if mac:
        attrs.append(("IFLA_ADDRESS", mac))
    message = _link_message(0, ifname, attrs)
    message["flags"] = IFF_UP | (IFF_NOARP if noarp else 0)
    message["change"] = IFF_UP | (IFF_NOARP if noarp else 0)
    return Request(f"set {ifname} up", RTM_NEWLINK, 0, message)


def leave_bridge(ifname: str) -> Request:
    """Take an interface out of its bridge; an interface that is gone is silent as well."""
    message = _link_message(0, ifname, [("IFLA_MASTER", 0)])
    return Request(f"take {ifname} out of the bridge", RTM_NEWLINK, 0, message, _GONE)


def lock_port(ifname: str, *, is_locked: bool) -> Request:
    """Whether the bridge drops what comes from this port. No error where the kernel is older than 5.18 (EINVAL)."""
    info = [
        ("IFLA_INFO_SLAVE_KIND", "bridge"),
        ("IFLA_INFO_SLAVE_DATA", {"attrs": [("IFLA_BRPORT_LOCKED", int(is_locked))]}),
    ]
    message = _link_message(0, ifname, [("IFLA_LINKINFO", {"attrs": info})])
    tolerate = frozenset({errno.EOPNOTSUPP, errno.EINVAL})
    return Request(f"{'lock' if is_locked else 'unlock'} {ifname}", RTM_NEWLINK, 0, message, tolerate)


def delete_link(index: int, ifname: str) -> Request:
    """Delete by index, so that nothing of the same name is hit by mistake."""
    return Request(f"delete {ifname}", RTM_DELLINK, 0, _link_message(index, "", []), _GONE)


def _address_message(index: int, address: IPv4Address | str | None, prefix: int) -> Any:
    message = ifaddrmsg()
    message["family"] = socket.AF_INET
    message["index"] = index
    message["prefixlen"] = prefix
    message["attrs"] = [("IFA_LOCAL", str(address)), ("IFA_ADDRESS", str(address))] if address else []
    return message


def add_address(index: int, address: IPv4Address, prefix: int, broadcast: IPv4Address) -> Request:
    """Give an interface an address; the same address again changes nothing."""
    message = _address_message(index, address, prefix)
    message["attrs"].append(("IFA_BROADCAST", str(broadcast)))
    return Request(f"add address {address}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, message)


def delete_address(index: int, address: str, prefix: int) -> Request:
    """Take an address away."""
    message = _address_message(index, address, prefix)
    return Request(f"delete address {address}", RTM_DELADDR, 0, message, _GONE)


def get_addresses(index: int) -> Request:
    """Ask for the IPv4 addresses of one interface (a dump)."""
    return Request("list addresses", RTM_GETADDR, 0, _address_message(index, None, 0))


def _fdb_message(index: int, mac: str, vtep: str | None, flags: int, state: int) -> Any:
    message = ndmsg()
    message["family"] = AF_BRIDGE
    message["ifindex"] = index
    message["state"] = state
    message["flags"] = flags
    message["attrs"] = [("NDA_LLADDR", mac)]
    if vtep is not None:
        message["attrs"].append(("NDA_DST", vtep))
    return message


def place_mac(vxlan: int, mac: str, vtep: str | None) -> Request:
    """Static entry of the VXLAN: `mac` lives behind `vtep`, or (None) here.

    Frames that carry this source MAC and come from any other endpoint are dropped by the kernel
    (vxlan_snoop: static entries do not migrate). None becomes a destination of 0.0.0.0, which no packet can
    come from: for a MAC that lives here every frame from outside that claims it is dropped.
    """
    message = _fdb_message(vxlan, mac, vtep or "0.0.0.0", NTF_SELF, STATIC)
    return Request(f"place {mac}", RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, message)


def unplace_mac(vxlan: int, mac: str) -> Request:
    """Delete the VXLAN's entry for a MAC."""
    message = _fdb_message(vxlan, mac, None, NTF_SELF, STATIC)
    return Request(f"forget {mac}", RTM_DELNEIGH, 0, message, _GONE)


def add_flood(vxlan: int, vtep: str) -> Request:
    """Send broadcast and unknown frames to this endpoint too."""
    message = _fdb_message(vxlan, FLOOD_MAC, vtep, NTF_SELF, STATIC)
    flags = NLM_F_CREATE | NLM_F_APPEND
    return Request(f"flood to {vtep}", RTM_NEWNEIGH, flags, message, frozenset({errno.EEXIST}))


def delete_flood(vxlan: int, vtep: str) -> Request:
    """Stop sending broadcast and unknown frames to this endpoint."""
    message = _fdb_message(vxlan, FLOOD_MAC, vtep, NTF_SELF, STATIC)
    return Request(f"stop flooding to {vtep}", RTM_DELNEIGH, 0, message, _GONE)


def pin_mac(port: int, mac: str) -> Request:
    """Static and sticky entry of the bridge: `mac` is behind this port, whoever else claims it."""
    message = _fdb_message(port, mac, None, NTF_MASTER | NTF_STICKY, NUD_NOARP)
    return Request(f"pin {mac} to its port", RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, message)


def get_fdb(index: int) -> Request:
    """Ask for the forwarding database of one interface (a dump)."""
    message = ndmsg()
    message["family"] = AF_BRIDGE
    message["ifindex"] = index
    message["attrs"] = []
    return Request("list forwarding entries", RTM_GETNEIGH, 0, message)


def parse_link(message: Any) -> Link:
    """Read an answer to `get_link` or `get_links`."""
    info = message.get_attr("IFLA_LINKINFO")
    data: Any = info.get_attr("IFLA_INFO_DATA") if info is not None else None
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME") or "",
        kind=(info.get_attr("IFLA_INFO_KIND") if info is not None else None) or "",
        alias=message.get_attr("IFLA_IFALIAS") or "",
        master=message.get_attr("IFLA_MASTER") or 0,
        mtu=message.get_attr("IFLA_MTU") or 0,
        mac=message.get_attr("IFLA_ADDRESS") or "",
        flags=message["flags"],
        options=dict(data["attrs"]) if hasattr(data, "get_attr") else {},
    )


def parse_fdb(message: Any, index: int) -> FdbEntry | None:
    """Read an answer to `get_fdb`: an entry of the interface itself, or None (the bridge's view of it)."""
    if message["ifindex"] != index or not message["flags"] & NTF_SELF or message["flags"] & NTF_MASTER:
        return None
    mac, vtep = message.get_attr("NDA_LLADDR"), message.get_attr("NDA_DST")
    if not mac:
        return None
    is_static = bool(message["state"] & STATIC)
    return FdbEntry(mac=mac, vtep=vtep if vtep and vtep != "0.0.0.0" else None, is_static=is_static)
