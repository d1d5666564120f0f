"""What a guest is told of its networks, from the records: the same on both hosts of a pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vdc.model.endophyte import Endophyte
from vdc.model.guest import GuestNic
from vdc.model.host import Host
from vdc.model.network import Network


def guest_nics(endophyte: Endophyte, networks: Mapping[str, Network]) -> tuple[GuestNic, ...]:
    """In their order. An overlay has no gateway: nothing outside is reached by way of one."""
    return tuple(
        GuestNic(
            mac=nic.mac,
            address=nic.address,
            prefix=networks[nic.network].cidr.prefixlen,
            mtu=networks[nic.network].mtu,
        )
        for nic in endophyte.nics
    )


def domain_of(endophyte: Endophyte, networks: Mapping[str, Network]) -> str:
    """The domain in which its name is looked up: that of its first NIC."""
    return networks[endophyte.nics[0].network].domain if endophyte.nics else ""


def nameservers(hosts: Iterable[Host]) -> tuple[str, ...]:
    """The overlay's servers, one a host. Chosen at power-on (`MachineFacts`): hosts come and go meanwhile."""
    return tuple(sorted(host.overlay_address for host in hosts if not host.is_witness))
