"""What reaches the host itself from its overlay: DHCP, DNS and ICMP echo at its overlay address, and nothing else.

Linux answers on every interface for every local address, and routes between them where forwarding is on: without
these rules a guest reaches the API, etcd and the replication ports through its host's end of the overlay.

Nothing is tracked: connection tracking would run for every packet of the replication stream too. A TCP segment that
does not open a connection may come to the ports from which the host itself opens some. Errors of ICMP stay out: one
that is forged could lower the MTU towards a peer.

A tap that is not in the bridge (a secondary's) would hand its frames to the host's own IP stack: they are dropped.
Linux answers ARP on every interface for every address that it has: it is asked for those of the overlay alone.

What is bridged passes here as well where br_netfilter is on, with the bridge on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable

from hostagent.drivers.net import names
from hostagent.drivers.net.segment import Segment

FAMILIES = ("inet", "arp")
_EPHEMERAL = 32768  # net.ipv4.ip_local_port_range


def rules(segment: Segment, taps: Iterable[str]) -> str:
    """The tables for `nft -f`, in the place of earlier ones."""
    table, bridge, own = names.doors_table(segment.network.name), segment.bridge, segment.overlay_address
    return f"""{removal(segment)}table inet {table} {{
  set taps {{ type ifname; }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname @taps counter drop
    iifname "{bridge}" goto doors
  }}
  chain doors {{
    ip daddr {{ {own}, 255.255.255.255 }} udp dport 67 accept
    ip daddr {own} udp dport 53 accept
    ip daddr {own} tcp dport 53 accept
    ip daddr {own} icmp type {{ echo-request, echo-reply }} accept
    ip daddr {own} tcp dport >= {_EPHEMERAL} tcp flags & (syn | ack) != syn accept
    counter drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname @taps counter drop
    iifname "{bridge}" oifname != "{bridge}" counter drop
    oifname "{bridge}" iifname != "{bridge}" counter drop
  }}
}}
table arp {table} {{
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{bridge}" arp daddr ip != {segment.network.cidr} counter drop
  }}
}}
{admission(segment, taps)}"""


def refilling(segment: Segment, taps: Iterable[str]) -> str:
    """These are the taps, and no others; fails where the table is not there."""
    table = names.doors_table(segment.network.name)
    return f"flush set inet {table} taps\n{admission(segment, taps)}"


def admission(segment: Segment, taps: Iterable[str]) -> str:
    """More taps, each closed to the host's IP stack. Idempotent; fails where the table is not there."""
    table, listed = names.doors_table(segment.network.name), ", ".join(f'"{tap}"' for tap in taps)
    return f"add element inet {table} taps {{ {listed} }}\n" if listed else ""


def removal(segment: Segment) -> str:
    """Take both tables away, if they are there."""
    table = names.doors_table(segment.network.name)
    return "".join(f"{verb} table {kind} {table}\n" for kind in FAMILIES for verb in ("add", "delete"))
