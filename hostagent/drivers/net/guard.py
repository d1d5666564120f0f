"""Holds back what lockstep does not compare: at a guest's tap, both ways, by a few nftables rules.

COLO compares IPv4 TCP, UDP and ICMP. Everything else of a protected guest would leave the primary without its
secondary's consent, and a failover could take back what a peer has seen. So taps that are marked (`GATED`, an
interface group, which lives and dies with the tap) pass IPv4 of these three protocols, and what finds the guest
(ARP, and RARP, by which QEMU announces it). A copy that lost the arbitration may still send that; the other
hosts' forwarding entries drop it.

The rules name no tap, so they are written once per boot and never again; they stay when the agent ends.
"""

from __future__ import annotations

from hostagent.drivers.net import nft

UNGATED, GATED = 0, 0x7664  # interface groups
TABLE = "vdc_guard"
NAME = f"bridge {TABLE}"
_COMPARED = (
    f"meta {{direction}}group {GATED} ether type != {{{{ ip, arp, 0x8035 }}}} counter drop",
    f"meta {{direction}}group {GATED} ip protocol != {{{{ icmp, tcp, udp }}}} counter drop",
)


def rules() -> str:
    """The whole rule set for `nft -f`, replacing an earlier one in one transaction."""
    chains = [("from_guests", "prerouting", "iif"), ("to_guests", "postrouting", "oif")]
    lines = [f"add table bridge {TABLE}", f"delete table bridge {TABLE}", f"table bridge {TABLE} {{"]
    for name, hook, direction in chains:
        lines += [f"  chain {name} {{", f"    type filter hook {hook} priority 0; policy accept;"]
        lines += [f"    {rule.format(direction=direction)}" for rule in _COMPARED]
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


async def ensure() -> None:
    """Set the rules in the network namespace of the caller. Idempotent; raises NftError."""
    await nft.apply(rules())
