"""What a guest may send into its overlay, and what may come in under a guest's name: one bridge table per overlay.

A frame from a guest's tap has to carry the guest's MAC and one of its addresses: Ethernet source, IPv4 source, and
sender in ARP and RARP (by which QEMU announces the guest). Addresses are those allotted to the guest on this overlay
and what the manifest allows beyond them, never the range of hosts and other guests. IPv6, where it passes at all, is
link-local: the overlay allots no IPv6 addresses. No frame types but these four, so no VLAN tags, no spanning tree, no
pause frames; no answers of DHCP servers, no router advertisements, and no first fragment of IPv6 that does not show
what it begins: without it the others make nothing. What comes out of the tunnel may not claim the address of a guest
that has a tap here, nor this host's own.

One map sends a frame to its checks by the interface that it came in by; the rest is sets with an element per tap.
They take in an interface by its name, so a tap has its elements before it is made, and promotion touches nothing.
The table stays when the agent ends; what is in it can be made anew from the taps' tags.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from hostagent.drivers.net import names
from hostagent.drivers.net.segment import Segment

_SETS = ("macs", "announced", "addresses", "allowed", "claimed", "bound")
_RULES = """\
  map ports { type ifname : verdict; }
  set macs { type ifname . ether_addr; }
  set announced { typeof iifname . @nh,64,48; }
  set addresses { type ifname . ether_addr . ipv4_addr; }
  set allowed { type ifname . ether_addr . ipv4_addr; flags interval; }
  set claimed { type ipv4_addr; }
  set bound { type ether_addr . ipv4_addr; }
  chain frames {
    type filter hook prerouting priority filter; policy accept;
    iifname vmap @ports
  }
  chain from_guest {
    iifname . ether saddr != @macs counter drop
    ether daddr & ff:ff:ff:00:00:00 == 01:80:c2:00:00:00 counter drop
    ether type vmap {
      ip : goto ip_of_guest, arp : goto arp_of_guest, 0x8035 : goto rarp_of_guest, ip6 : goto ip6_of_guest
    }
    counter drop
  }
  chain ip_of_guest {
    udp sport 67 counter drop
    udp dport 68 counter drop
    iifname . ether saddr . ip saddr @addresses accept
    iifname . ether saddr . ip saddr @allowed accept
    ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
    counter drop
  }
  chain arp_of_guest {
    arp htype != 1 counter drop
    arp ptype != ip counter drop
    arp hlen != 6 counter drop
    arp plen != 4 counter drop
    iifname . arp saddr ether . arp saddr ip @addresses accept
    iifname . arp saddr ether . arp saddr ip @allowed accept
    arp operation request arp saddr ip 0.0.0.0 iifname . arp saddr ether @macs accept
    counter drop
  }
  chain rarp_of_guest {
    iifname . @nh,64,48 @announced accept
    counter drop
  }
  chain ip6_of_guest {
    ip6 saddr != { ::, fe80::/10 } counter drop
    frag frag-off != 0 accept
    udp sport != 547 accept
    icmpv6 type != { nd-router-advert, nd-redirect } accept
    meta l4proto != { udp, icmpv6 } accept
    counter drop
  }
  chain from_tunnel {
    arp saddr ip @claimed arp saddr ether . arp saddr ip != @bound counter drop
    ip saddr @claimed ether saddr . ip saddr != @bound counter drop
  }
"""


@dataclass(frozen=True, slots=True)
class Binding:
    """Whose frames a tap may send: the guest's MAC, its addresses, and prefixes beyond them."""

    ifname: str
    mac: str
    addresses: tuple[IPv4Address, ...]
    allowed: tuple[IPv4Network, ...] = ()

    @classmethod
    def of(cls, ifname: str, mac: str, address: str, *beside: str) -> Binding:
        """From text; beside its address, others and prefixes. Raises ValueError where it is not what it should be."""
        digits = f"{int(mac.replace(':', ''), 16):012x}"
        return cls(
            ifname=ifname,
            mac=":".join(digits[i : i + 2] for i in range(0, 12, 2)),
            addresses=tuple(map(IPv4Address, [address, *(text for text in beside if "/" not in text)])),
            allowed=tuple(IPv4Network(text) for text in beside if "/" in text),
        )


def rules(segment: Segment, bindings: Iterable[Binding]) -> str:
    """The whole table for `nft -f`, in the place of an earlier one."""
    table = names.ports_table(segment.network.name)
    return f"{removal(segment)}table bridge {table} {{\n{_RULES}}}\n{_filling(segment, bindings)}"


def refilling(segment: Segment, bindings: Iterable[Binding]) -> str:
    """Let these taps speak and no others; fails where the table is not there."""
    table = names.ports_table(segment.network.name)
    emptied = [f"flush map bridge {table} ports", *(f"flush set bridge {table} {name}" for name in _SETS)]
    return "\n".join([*emptied, _filling(segment, bindings)])


def removal(segment: Segment) -> str:
    """Take the table away, if it is there."""
    table = names.ports_table(segment.network.name)
    return f"add table bridge {table}\ndelete table bridge {table}\n"


def admission(segment: Segment, bindings: Iterable[Binding]) -> str:
    """Let more taps speak, as these guests. Idempotent; fails where the table is not there."""
    return _adding(segment, (element for binding in bindings for element in _elements(segment, binding)))


def _filling(segment: Segment, bindings: Iterable[Binding]) -> str:
    tunnel = ("ports", f'"{segment.vxlan}" : goto from_tunnel')
    own = ("claimed", f"{segment.overlay_address}")  # bound to no MAC: this host is never beyond the tunnel
    return _adding(segment, [tunnel, own]) + admission(segment, bindings)


def _elements(segment: Segment, binding: Binding) -> Iterator[tuple[str, str]]:
    tap, mac = f'"{binding.ifname}"', binding.mac
    yield "ports", f"{tap} : goto from_guest"
    yield "macs", f"{tap} . {mac}"
    yield "announced", f"{tap} . 0x{mac.replace(':', '')}"
    for address in binding.addresses:
        yield "addresses", f"{tap} . {mac} . {address}"
        yield "claimed", f"{address}"
        yield "bound", f"{mac} . {address}"
    network = segment.network
    for first, last in without(binding.allowed, network.cidr.network_address, network.guest_last):
        yield "allowed", f"{tap} . {mac} . {first}-{last}"


def _adding(segment: Segment, elements: Iterable[tuple[str, str]]) -> str:
    """One command per set: nft takes ten times as long with one per element."""
    table, by_set = names.ports_table(segment.network.name), defaultdict(list)
    for where, what in elements:
        by_set[where].append(what)
    return "".join(
        f"add element bridge {table} {where} {{ {', '.join(listed)} }}\n" for where, listed in by_set.items()
    )


def without(
    prefixes: Sequence[IPv4Network], first: IPv4Address, last: IPv4Address
) -> list[tuple[IPv4Address, IPv4Address]]:
    """The addresses of some prefixes less those from `first` to `last`, as ranges that do not overlap."""
    ranges = []
    for prefix in collapse_addresses(prefixes):
        low, high = prefix.network_address, prefix.broadcast_address
        if low < first:
            ranges.append((low, min(high, first - 1)))
        if high > last:
            ranges.append((max(low, last + 1), high))
    return ranges
