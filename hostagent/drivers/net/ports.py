"""The taps of guests: in the bridge when the guest may speak, beside it when it may not.

Everything here runs on the netlink thread.

Invariants: a tap is born outside the bridge and tagged in the same job; what it may send (portsecurity.py) is in
force before. Joining (`join_requests`) is the only way to speak. A tap that does not speak is up all the same: an
interface that is set up only at promotion may wait up to a second for its carrier to be noticed. It must be silent
in the other direction too: the host's IPv6 and ARP are off on it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network

from hostagent.drivers.net import guard, messages, tap
from hostagent.drivers.net.errors import ForeignLinkError, KernelRefusedError
from hostagent.drivers.net.messages import Link
from hostagent.drivers.net.names import PortTag, tap_name
from hostagent.drivers.net.netlink import Netlink, Request
from hostagent.drivers.net.portsecurity import Binding
from hostagent.drivers.net.segment import find_link


@dataclass(frozen=True, slots=True)
class Port:
    """A NIC's place on the overlay: the tap, the guest's MAC and address, and whose it is.

    `shared`: addresses of the guest's other NICs on this overlay. `allowed`: prefixes from which the guest may send
    too. `is_gated`: only what lockstep compares may pass (guard.py).
    """

    ifname: str
    mac: str
    uid: str
    address: str
    shared: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    is_gated: bool = True

    @classmethod
    def of(
        cls,
        uid: str,
        index: int,
        mac: str,
        address: str,
        *,
        shared: Iterable[str] = (),
        allowed: Iterable[IPv4Network] = (),
        is_gated: bool = True,
    ) -> Port:
        """The port of NIC `index` of the Endophyte `uid`."""
        beside = tuple(shared), tuple(map(str, allowed))
        return cls(tap_name(uid, index), mac.lower(), uid, address, *beside, is_gated)

    @property
    def senders(self) -> tuple[str, ...]:
        """All that the guest may send from: addresses, then prefixes."""
        return (self.address, *self.shared, *self.allowed)

    @property
    def binding(self) -> Binding:
        """What the guest may send; raises ValueError where MAC or address are none."""
        return Binding.of(self.ifname, self.mac, *self.senders)


@dataclass(frozen=True, slots=True)
class PortState:
    """A port as found: `is_live` means in the bridge, `is_open` that a process has the tap open.

    `senders` as in its tag: the guest's addresses, then the prefixes that it is allowed.
    """

    ifname: str
    uid: str
    mac: str
    senders: tuple[str, ...]
    is_live: bool
    is_up: bool
    is_open: bool


def prepare(netlink: Netlink, network: str, mtu: int, port: Port, owner: int | None) -> Link:
    """Make the tap, or adopt the one of an earlier run; leaves its place in or beside the bridge as it is."""
    link = find_link(netlink, port.ifname)
    if link is None:
        tap.create(port.ifname, owner=owner)
        tap.disable_ipv6(port.ifname)
        link = _must_find(netlink, port.ifname)
    elif not _is_own(link, network, port.uid):
        raise ForeignLinkError(port.ifname, f"kind {link.kind or 'physical'}, alias {link.alias!r}")
    tag = str(PortTag(network, port.uid, port.mac, port.senders))
    group = guard.GATED if port.is_gated else guard.UNGATED
    netlink.batch_now([messages.mark_link(port.ifname, tag, mtu, group), messages.silence_ipv6(port.ifname)])
    return link


def _is_own(link: Link, network: str, uid: str) -> bool:
    """Ours by its tag, or a tap under our hashed name that a crash left before it was tagged."""
    if link.kind != "tun":
        return False
    tag = PortTag.parse(link.alias)
    return not link.alias if tag is None else (tag.network, tag.uid) == (network, uid)


def _must_find(netlink: Netlink, ifname: str) -> Link:
    link = find_link(netlink, ifname)
    if link is None:
        raise KernelRefusedError(f"look up {ifname}", errno.ENODEV)
    return link


def join_requests(bridge: int, vxlan: int, ports: Sequence[tuple[str, int, str]]) -> list[Request]:
    """Let (name, index, MAC) speak: first nobody outside may claim the MACs, then the taps join."""
    return [
        *(messages.place_mac(vxlan, mac, None) for _, _, mac in ports),
        *(messages.set_up(ifname, master=bridge, noarp=True) for ifname, _, _ in ports),
        *(messages.pin_mac(index, mac) for _, index, mac in ports),
        *(messages.lock_port(ifname, is_locked=False) for ifname, _, _ in ports),
    ]


def listen_requests(bridge: int, ifnames: Sequence[str]) -> list[Request]:
    """Let taps hear the bridge before they may speak there; what they send is dropped (and lockstep holds it back)."""
    return [
        request
        for ifname in ifnames
        for request in (
            messages.set_up(ifname, master=bridge, noarp=True),
            messages.lock_port(ifname, is_locked=True),
        )
    ]


def silence_requests(ifnames: Sequence[str]) -> list[Request]:
    """Take taps out of the bridge; the kernel drops the bridge's entries for them."""
    return [messages.leave_bridge(ifname) for ifname in ifnames]


def find_ports(netlink: Netlink, network: str, bridge: int) -> list[tuple[Link, PortState]]:
    """All taps that carry this network's tag."""
    found: list[tuple[Link, PortState]] = []
    for answer in netlink.dump_now(messages.get_links()):
        link = messages.parse_link(answer)
        tag = PortTag.parse(link.alias)
        if tag is None or tag.network != network:
            continue
        state = PortState(
            ifname=link.name,
            uid=tag.uid,
            mac=tag.mac,
            senders=tag.senders,
            is_live=bool(link.master) and link.master == bridge,
            is_up=link.is_up,
            is_open=link.has_carrier,
        )
        found.append((link, state))
    return found


def bindings_of(states: Iterable[PortState]) -> list[Binding]:
    """What the taps' tags say that they may send.

    A tap of an earlier version says nothing of addresses: its guest is not confined before its next start.
    """
    found = []
    for state in states:
        with suppress(ValueError):
            address, *beside = state.senders
            found.append(Binding.of(state.ifname, state.mac, address, *beside))
    return found
