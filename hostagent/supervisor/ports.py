"""The ports of an Endophyte: one per NIC, with what its guest may send there."""

from __future__ import annotations

from hostagent.drivers.net.ports import Port
from vdc.model.endophyte import Endophyte


def ports_of(endophyte: Endophyte) -> list[Port]:
    """In the order of the NICs.

    NICs of one guest on one overlay may use each other's addresses: systems such as Linux answer ARP for all of them on
    each, and send by the first that has a route.
    """
    spec, nics = endophyte.manifest.spec, endophyte.nics
    return [
        Port.of(
            endophyte.uid, index, nic.mac, nic.address, is_gated=spec.is_gated, allowed=wanted.allowed_addresses,
            shared=[other.address for other in nics if other is not nic and other.network == nic.network],
        )
        for index, (nic, wanted) in enumerate(zip(nics, spec.networks, strict=True))
    ]  # fmt: skip
