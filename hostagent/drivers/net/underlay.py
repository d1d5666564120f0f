"""What reaches a host from the networks between the hosts: the cluster's own protocols from the cluster's hosts.

The replication network is the hosts' alone: nothing else is let in by its interface, nor to its address by another
one. VXLAN, heartbeats and etcd's peers are let in from the hosts that use them, whichever the interface. Everything
else on the management network is the administrator's business, and the API has TLS.

A source address can be forged by whoever is on the same segment: what then proves who speaks is TLS (heartbeats:
their MAC); VXLAN has neither. Where both networks share an interface or an address the replication ports cannot be
told apart, and only what can be is closed.

QEMU has no network, but connections that the agent made for it. The kernel lets who holds a connection end it and
make another one with it, from the network in which it was made, to whomever. So these connections carry a mark, which
takes a capability to change, and by that they make no others and lead to no one but hosts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from hostagent.drivers.net.segment import VXLAN_PORT

TABLE = "vdc_underlay"
HANDED_OVER = 0x2077  # the mark; 0x0f00, 0xc000 and what is above are commonly taken
NAME = f"inet {TABLE}"
REMOVAL = f"add table {NAME}\ndelete table {NAME}\n"


@dataclass(frozen=True, slots=True)
class Underlay:
    """This host's place on the networks. `replication_address`: None where there is no second network."""

    management_interface: str
    replication_interface: str
    replication_address: IPv4Address | None
    heartbeat_port: int
    etcd_peer_port: int | None  # None: etcd is somebody else's


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who may come."""

    hosts: frozenset[IPv4Address]  # by all their addresses
    replication: frozenset[IPv4Address]
    endpoints: frozenset[IPv4Address]  # of VXLAN


def rules(underlay: Underlay, admitted: Admitted) -> str:
    """The table for `nft -f`, in the place of an earlier one."""
    lines = [f"{REMOVAL}table {NAME} {{"]
    for name in ("hosts", "replication", "endpoints"):
        lines.append(f"  set {name} {{ type ipv4_addr; {_elements(getattr(admitted, name))}}}")
    lines += [
        "  chain input {",
        "    type filter hook input priority filter; policy accept;",
        '    iif "lo" accept',
        f"    udp dport {VXLAN_PORT} ip saddr != @endpoints counter drop",
        f"    udp dport {underlay.heartbeat_port} ip saddr != @hosts counter drop",
    ]
    if underlay.etcd_peer_port is not None:
        lines.append(f"    tcp dport {underlay.etcd_peer_port} ip saddr != @hosts counter drop")
    lines += [f"    {rule}" for rule in _replication(underlay)]
    lines += [
        "  }",
        "  chain output {",
        "    type filter hook output priority filter; policy accept;",
        f"    meta mark != {HANDED_OVER:#x} accept",
        "    tcp flags & (syn | ack) == syn counter drop",
        "    ip daddr != @replication counter drop",
    ]
    return "\n".join([*lines, "  }", "}", ""])


def _replication(underlay: Underlay) -> list[str]:
    if underlay.replication_address is None:
        return []
    to_address = f"ip daddr {underlay.replication_address} ip saddr != @replication counter drop"
    if underlay.replication_interface == underlay.management_interface:
        return [to_address]
    interface = f'iifname "{underlay.replication_interface}"'
    return [
        f"{interface} meta nfproto != ipv4 counter drop",
        f"{interface} ip saddr != @replication counter drop",
        to_address,
    ]


def _elements(addresses: Iterable[IPv4Address]) -> str:
    listed = ", ".join(map(str, sorted(addresses)))
    return f"elements = {{ {listed} }}; " if listed else ""
