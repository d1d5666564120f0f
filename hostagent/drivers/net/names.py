"""Names, ownership tags and addresses that follow from an identity alone, the same after every restart.

Interface names hold at most 15 characters, so long identities are hashed. Whether an interface is ours is
never read from its name: its alias (IFLA_IFALIAS) says so and outlives the agent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Address

IFNAME_MAX = 15
_PORT_TAG = "vdc:port:"
_NETWORK_TAG = "vdc:net:"


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def tap_name(uid: str, index: int) -> str:
    """The tap of NIC `index` of the Endophyte `uid`: `vdc`, nine hexadecimal digits, `n`, the index."""
    if not 0 <= index <= 99:
        raise ValueError(f"NIC index {index} is outside 0 to 99")
    return f"vdc{_digest(uid, 9)}n{index}"


def consent_table(uid: str = "") -> str:
    """The nftables table of a primary in lockstep (consent.py); without a uid what all their names begin with."""
    return f"vdc_consent_{_digest(uid, 9) if uid else ''}"


def ports_table(network: str) -> str:
    """The nftables table of an overlay's ports (portsecurity.py); a network's name may hold what a table's may not."""
    return f"vdc_ports_{_digest(network, 9)}"


def doors_table(network: str) -> str:
    """The nftables table of this host's own end of an overlay (doors.py)."""
    return f"vdc_doors_{_digest(network, 9)}"


def _network_ifname(prefix: str, network: str) -> str:
    room = IFNAME_MAX - len(prefix)
    if len(network) <= room:
        return prefix + network
    return f"{prefix}{network[: room - 6]}-{_digest(network, 5)}"


def bridge_name(network: str) -> str:
    """The bridge of an overlay: `br-<name>`, the end of a long name replaced by a hash."""
    return _network_ifname("br-", network)


def vxlan_name(network: str) -> str:
    """The VXLAN interface of an overlay: `vx-<name>`, the end of a long name replaced by a hash."""
    return _network_ifname("vx-", network)


def bridge_mac(vni: int, overlay_address: IPv4Address) -> str:
    """A fixed MAC for the bridge, which else takes the lowest of its ports' and changes with every tap."""
    digits = _digest(f"{vni}/{overlay_address}", 10)
    return ":".join(["02", *(digits[i : i + 2] for i in range(0, 10, 2))])


@dataclass(frozen=True, slots=True)
class PortTag:
    """What the alias of a tap says: whose it is, and whose frames it may send. At most 255 characters in all."""

    network: str
    uid: str
    mac: str
    senders: tuple[str, ...] = ()  # the guest's addresses, then the prefixes that it is allowed beside them

    def __str__(self) -> str:
        return f"{_PORT_TAG}{self.network}:{self.uid}:{' '.join((self.mac, *self.senders))}"

    @classmethod
    def parse(cls, alias: str) -> PortTag | None:
        """Read an alias; None where it is not one of ours."""
        if not alias.startswith(_PORT_TAG):
            return None
        fields = alias[len(_PORT_TAG) :].split(":", 2)
        if len(fields) != 3 or not all(fields):
            return None
        mac, *senders = fields[2].split(" ")
        return cls(fields[0], fields[1], mac, tuple(senders))


def network_tag(network: str) -> str:
    """The alias of an overlay's bridge and VXLAN interface."""
    return _NETWORK_TAG + network
