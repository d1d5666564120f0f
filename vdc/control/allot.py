"""Allotting what an Endophyte keeps for life: MAC and overlay address of each NIC. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from ipaddress import IPv4Address

from vdc.model.endophyte import Nic
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, RefusedError
from vdc.model.manifest import EndophyteSpec, NetworkPort
from vdc.model.network import Network

_QEMU_OUI = "52:54:00"


def mac_for(network: str, address: str, taken: Set[str] = frozenset()) -> str:
    """A MAC of QEMU's prefix, derived from the address, that is not in `taken`.

    An address that is given to another guest keeps its MAC: who has talked to the earlier guest would else
    go on sending to a MAC that is gone, for up to a minute, until its neighbour entry is checked again.
    """
    for attempt in range(256):
        digest = hashlib.sha256(f"{network}/{address}/{attempt}".encode()).digest()
        mac = ":".join((_QEMU_OUI, *(f"{byte:02x}" for byte in digest[:3])))
        if mac not in taken:
            return mac
    raise RefusedError("no free MAC address was found", code="no-mac")


def _address_for(port: NetworkPort, network: Network, taken: Set[str]) -> str:
    if port.address is not None:
        if not network.guest_first <= port.address <= network.guest_last:
            raise InvalidError(
                f"address {port.address} is outside the guests' range of network {network.name}",
                code="address-invalid",
                hint=f"choose one from {network.guest_first} to {network.guest_last}, or leave it out",
            )
        if str(port.address) in taken:
            raise ConflictError(f"address {port.address} is in use", code="address-taken")
        return str(port.address)
    for number in range(int(network.guest_first), int(network.guest_last) + 1):
        candidate = str(IPv4Address(number))
        if candidate not in taken:
            return candidate
    raise RefusedError(f"network {network.name} has no free address", code="no-address")


def _check_allowed(port: NetworkPort, network: Network) -> None:
    for prefix in port.allowed_addresses:
        is_reserved = network.cidr.network_address <= prefix[0] and prefix[-1] <= network.guest_last
        if is_reserved:
            raise InvalidError(
                f"allowedAddresses: {prefix} belongs to the hosts and guests of network {network.name}",
                code="allowed-address-invalid",
                hint=f"choose what lies outside {network.cidr.network_address} to {network.guest_last}",
            )


def allot_nics(
    spec: EndophyteSpec,
    networks: Mapping[str, Network],
    taken: Mapping[str, Set[str]],
    taken_macs: Set[str],
) -> tuple[Nic, ...]:
    """MAC and address for each NIC. `taken` maps a network to its used addresses.

    Raises NotFoundError (`network-not-found`), ConflictError (`address-taken`, `mac-taken`), InvalidError or
    RefusedError where nothing is free.
    """
    nics: list[Nic] = []
    for port in spec.networks:
        network = networks.get(port.network)
        if network is None:
            raise NotFoundError(
                f"network {port.network} does not exist",
                code="network-not-found",
                hint="see `vdc get networks`",
            )
        _check_allowed(port, network)
        used = set(taken.get(port.network, ())) | {nic.address for nic in nics if nic.network == port.network}
        used_macs = taken_macs | {nic.mac for nic in nics}
        if port.mac is not None and port.mac in used_macs:
            raise ConflictError(f"MAC {port.mac} is in use", code="mac-taken")
        address = _address_for(port, network, used)
        mac = port.mac or mac_for(port.network, address, used_macs)
        nics.append(Nic(network=port.network, mac=mac, address=address))
    return tuple(nics)
