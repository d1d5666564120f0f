"""The bridge and the VXLAN interface of one overlay: made, compared and repaired. Runs on the netlink thread.

Learning is on: endpoints that are no hosts (a gateway, a test client) are found through the data plane. Guest
MACs have static entries, and those win (see `messages.place_mac`).

Dangers: the bridge has a fixed MAC, or it would change with every tap that joins. Spanning tree is off and
the forward delay 0, so that a port forwards at once. The VXLAN is not tied to the underlay interface: the
kernel would delete it together with that interface. Deleting it forgets all placements; where it has to be
made again they are written again in the same job.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from hostagent.drivers.net import messages, names
from hostagent.drivers.net.errors import ForeignLinkError, KernelRefusedError
from hostagent.drivers.net.messages import FdbEntry, Link
from hostagent.drivers.net.netlink import Netlink, Request
from hostagent.drivers.net.placement import plan_flood, plan_placements
from vdc.model.network import Network

VXLAN_PORT = 4789
VXLAN_OVERHEAD_BYTES = 50
_AGEING_S = 120
_BRIDGE_OPTIONS = {
    "IFLA_BR_FORWARD_DELAY": 0,
    "IFLA_BR_STP_STATE": 0,
    "IFLA_BR_MCAST_SNOOPING": 0,
    "IFLA_BR_AGEING_TIME": _AGEING_S * 100,
}


@dataclass(frozen=True, slots=True)
class Segment:
    """What one host's end of an overlay has to look like."""

    network: Network
    vtep_address: IPv4Address
    overlay_address: IPv4Address

    @property
    def bridge(self) -> str:
        """The bridge's name."""
        return names.bridge_name(self.network.name)

    @property
    def vxlan(self) -> str:
        """The VXLAN interface's name."""
        return names.vxlan_name(self.network.name)

    @property
    def vxlan_options(self) -> dict[str, Any]:
        """Attributes of the VXLAN interface; a difference in any of them means that it is made again."""
        return {
            "IFLA_VXLAN_ID": self.network.vni,
            "IFLA_VXLAN_LOCAL": str(self.vtep_address),
            "IFLA_VXLAN_PORT": VXLAN_PORT,
            "IFLA_VXLAN_LEARNING": 1,
            "IFLA_VXLAN_AGEING": _AGEING_S,
        }

    def flood_targets(self, peers: Sequence[str]) -> tuple[str, ...]:
        """The endpoints that broadcast frames go to; never this one, which would be a loop."""
        targets = dict.fromkeys((*map(str, peers), *self.network.external_vteps))
        targets.pop(str(self.vtep_address), None)
        return tuple(targets)


def find_link(netlink: Netlink, ifname: str) -> Link | None:
    """Look an interface up by name."""
    answer = netlink.query_now(messages.get_link(ifname))
    return None if answer is None else messages.parse_link(answer)


def find_own(netlink: Netlink, ifname: str, kind: str, tag: str) -> Link | None:
    """Look an interface up that must be ours if it exists; raises ForeignLinkError."""
    link = find_link(netlink, ifname)
    if link is None:
        return None
    if link.kind != kind:
        raise ForeignLinkError(ifname, f"it is of kind {link.kind or 'physical'}, not {kind}")
    if link.alias != tag:
        raise ForeignLinkError(ifname, f"its alias is {link.alias!r}, not {tag!r}")
    return link


def read_fdb(netlink: Netlink, index: int) -> list[FdbEntry]:
    """Read the forwarding database of a VXLAN interface."""
    entries = (messages.parse_fdb(answer, index) for answer in netlink.dump_now(messages.get_fdb(index)))
    return [entry for entry in entries if entry is not None]


def reconcile(netlink: Netlink, segment: Segment, peers: Sequence[str]) -> tuple[int, int, list[str]]:
    """Make the host's end of the overlay as it should be: (bridge index, VXLAN index, what was changed)."""
    changes: list[str] = []
    bridge = _reconcile_bridge(netlink, segment, changes)
    vxlan = _reconcile_vxlan(netlink, segment, bridge, changes)
    _reconcile_address(netlink, segment, bridge, changes)
    plan = plan_flood(segment.flood_targets(peers), read_fdb(netlink, vxlan))
    _apply(
        netlink,
        [messages.add_flood(vxlan, vtep) for vtep in plan.add]
        + [messages.delete_flood(vxlan, vtep) for vtep in plan.remove],
        changes,
    )
    return bridge, vxlan, changes


def _apply(netlink: Netlink, requests: Sequence[Request], changes: list[str]) -> None:
    netlink.batch_now(requests)
    changes.extend(request.what for request in requests)


def _must_find(netlink: Netlink, ifname: str) -> Link:
    link = find_link(netlink, ifname)
    if link is None:
        raise KernelRefusedError(f"create {ifname}", errno.ENODEV, "it is not there after it was created")
    return link


def _differs(link: Link, options: dict[str, Any]) -> bool:
    return any(link.options.get(key) != value for key, value in options.items())


def _reconcile_bridge(netlink: Netlink, segment: Segment, changes: list[str]) -> int:
    name, network = segment.bridge, segment.network
    tag = names.network_tag(network.name)
    mac = names.bridge_mac(network.vni, segment.overlay_address)
    link = find_own(netlink, name, "bridge", tag)
    if link is None:
        _apply(
            netlink,
            [
                messages.create_link(name, "bridge", _BRIDGE_OPTIONS, mac),
                messages.mark_link(name, tag, network.mtu),
                messages.silence_ipv6(name),
                messages.set_up(name),
            ],
            changes,
        )
        return _must_find(netlink, name).index
    repairs = []
    if _differs(link, _BRIDGE_OPTIONS):
        repairs.append(messages.configure_link(name, "bridge", _BRIDGE_OPTIONS))
    if link.mtu != network.mtu:
        repairs.append(messages.mark_link(name, tag, network.mtu))
    if not link.is_up or link.mac != mac:
        repairs.append(messages.set_up(name, mac=mac))
    _apply(netlink, repairs, changes)
    return link.index


def _reconcile_vxlan(netlink: Netlink, segment: Segment, bridge: int, changes: list[str]) -> int:
    name, network = segment.vxlan, segment.network
    tag = names.network_tag(network.name)
    link = find_own(netlink, name, "vxlan", tag)
    kept: list[FdbEntry] = []
    if link is not None and _differs(link, segment.vxlan_options):
        kept = [entry for entry in read_fdb(netlink, link.index) if entry.is_static]
        _apply(netlink, [messages.delete_link(link.index, name)], changes)
        link = None
    if link is None:
        _create_vxlan(netlink, segment, bridge, kept, changes)
        return _must_find(netlink, name).index
    repairs = []
    if link.mtu != network.mtu:
        repairs.append(messages.mark_link(name, tag, network.mtu))
    if not link.is_up or link.master != bridge:
        repairs.append(messages.set_up(name, master=bridge))
    _apply(netlink, repairs, changes)
    return link.index


def _create_vxlan(
    netlink: Netlink, segment: Segment, bridge: int, kept: Sequence[FdbEntry], changes: list[str]
) -> None:
    """Create it down, write the placements that are to be kept, and only then let frames through."""
    name, network = segment.vxlan, segment.network
    _apply(
        netlink,
        [
            messages.create_link(name, "vxlan", segment.vxlan_options),
            messages.mark_link(name, names.network_tag(network.name), network.mtu),
            messages.silence_ipv6(name),
        ],
        changes,
    )
    index = _must_find(netlink, name).index
    placements = {e.mac: e.vtep for e in kept if e.mac != messages.FLOOD_MAC}
    plan = plan_placements(placements, [])
    requests = [messages.place_mac(index, mac, vtep) for mac, vtep in plan.write]
    _apply(netlink, [*requests, messages.set_up(name, master=bridge)], changes)


def _reconcile_address(netlink: Netlink, segment: Segment, bridge: int, changes: list[str]) -> None:
    cidr = segment.network.cidr
    wanted = (str(segment.overlay_address), cidr.prefixlen)
    present = {
        (answer.get_attr("IFA_LOCAL"), answer["prefixlen"])
        for answer in netlink.dump_now(messages.get_addresses(bridge))
        if answer["index"] == bridge
    }
    requests = [
        messages.delete_address(bridge, address, prefix) for address, prefix in sorted(present - {wanted})
    ]
    if wanted not in present:
        address = segment.overlay_address
        requests.append(messages.add_address(bridge, address, cidr.prefixlen, cidr.broadcast_address))
    _apply(netlink, requests, changes)
