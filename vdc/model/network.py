"""An overlay network: one VXLAN segment that all hosts share."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from pydantic import Field, model_validator

from vdc.model.address import Ipv4Address, Ipv4Network
from vdc.model.base import Record
from vdc.model.ids import DnsLabel

MAX_NAME = 48  # the tag of a guest's tap has to hold it, beside addresses


class Network(Record):
    """One overlay. Hosts take the addresses below `guest_first`, guests those up to `guest_last`."""

    name: DnsLabel = Field(default="default", max_length=MAX_NAME)
    cidr: Ipv4Network = IPv4Network("10.77.0.0/24")
    vni: int = Field(default=100, ge=1, lt=2**24)
    guest_first: Ipv4Address = IPv4Address("10.77.0.10")
    guest_last: Ipv4Address = IPv4Address("10.77.0.199")
    domain: str = "vdc.internal"
    mtu: int = Field(default=1400, ge=1280, le=9000)
    external_vteps: tuple[str, ...] = ()  # endpoints beside the hosts (a gateway, the lab's client)

    @model_validator(mode="after")
    def _range_inside(self) -> Network:
        if not (
            self.guest_first in self.cidr
            and self.guest_last in self.cidr
            and self.guest_first <= self.guest_last
        ):
            raise ValueError("guest_first and guest_last must lie in cidr, in this order")
        return self
