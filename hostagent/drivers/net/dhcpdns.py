"""What dnsmasq has to be told: pure rendering of its configuration and of the two files that it reads again.

Every host runs one dnsmasq for an overlay, and all of them say the same: a request for an address is a
broadcast that reaches all hosts, and any of them may answer. Addresses come from reservations alone,
for ever, so no lease needs to be remembered and none can be given twice. Unknown MACs get no answer.

Danger: never `dhcp-authoritative` here. With it each server refuses (NAK) a request that was meant for
another one, and the refusal races the other's consent.

Answers are broadcast: to send one to a guest that has no address yet takes an ARP entry, and that the right to
administer the host's network, which a program that reads guests' packets must not have.

The reservations and names are in `--dhcp-hostsfile` and `--addn-hosts`, read again on SIGHUP: the directories
that dnsmasq watches by inotify never forget an entry whose file was deleted.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from vdc.model.base import Record
from vdc.model.ids import DnsLabel
from vdc.model.network import Network

MAX_DNS_SERVERS = 16  # a DHCP option holds 63 addresses, a resolver seldom reads more than three
CONFIG_FILE, DHCP_HOSTS_FILE, DNS_HOSTS_FILE = "dnsmasq.conf", "dhcp-hosts", "dns-hosts"

_DomainName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
]
_Mac = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
_Ifname = Annotated[str, StringConstraints(pattern=r"^[-A-Za-z0-9_.]{1,15}$")]


class Reservation(Record):
    """One NIC: the Endophyte's name, the MAC and the address that it always gets."""

    name: DnsLabel
    mac: _Mac
    address: IPv4Address


class DnsName(Record):
    """A further name inside the overlay's domain, for example of a service."""

    name: DnsLabel
    address: IPv4Address


class DhcpDnsConfig(Record):
    """The same on all hosts but for `interface`."""

    interface: _Ifname
    cidr: IPv4Network
    domain: _DomainName
    mtu: int = Field(ge=576, le=65535)
    dns_servers: tuple[IPv4Address, ...] = Field(min_length=1)  # the overlay addresses of all hosts
    reservations: tuple[Reservation, ...] = ()
    names: tuple[DnsName, ...] = ()
    upstream: tuple[IPv4Address, ...] = ()  # empty: names outside the domain do not resolve
    user: str = Field(default="", pattern=r"^[-a-z0-9_]*$")  # to run as; empty: as started

    @classmethod
    def of(
        cls,
        network: Network,
        *,
        interface: str,
        dns_servers: tuple[IPv4Address, ...],
        reservations: tuple[Reservation, ...],
    ) -> DhcpDnsConfig:
        """The configuration of an overlay."""
        return cls(
            interface=interface,
            cidr=network.cidr,
            domain=network.domain,
            mtu=network.mtu,
            dns_servers=dns_servers,
            reservations=reservations,
        )


def render_config(config: DhcpDnsConfig, folder: Path) -> str:
    """`dnsmasq.conf`; a change of it needs a restart."""
    servers = ",".join(str(address) for address in sorted(set(config.dns_servers))[:MAX_DNS_SERVERS])
    lines = [
        "# Written by the host agent, and overwritten.",
        f"interface={config.interface}",
        "except-interface=lo",
        "bind-dynamic",
        f"user={config.user}",
        "pid-file=",
        "log-facility=-",
        "no-hosts",
        "no-resolv",
        *(f"server={address}" for address in config.upstream),
        "domain-needed",
        "bogus-priv",
        f"domain={config.domain}",
        f"local=/{config.domain}/",
        f"addn-hosts={folder / DNS_HOSTS_FILE}",
        f"dhcp-hostsfile={folder / DHCP_HOSTS_FILE}",
        f"dhcp-range={config.cidr.network_address},static,{config.cidr.netmask},infinite",
        f"dhcp-lease-max={config.cidr.num_addresses}",
        "dhcp-ignore=tag:!known",
        "dhcp-ignore-names",
        "leasefile-ro",
        "no-ping",
        "dhcp-broadcast",
        f"dhcp-option=option:dns-server,{servers}",
        "dhcp-option=option:router",
        f"dhcp-option-force=option:mtu,{config.mtu}",
        f"dhcp-option=option:domain-search,{config.domain}",
    ]
    return "\n".join(lines) + "\n"


def render_dhcp_hosts(config: DhcpDnsConfig) -> str:
    """The reservations, one NIC a line."""
    lines = [f"{r.mac},{r.address},{r.name},infinite" for r in _sorted(config.reservations)]
    return "".join(f"{line}\n" for line in lines)


def render_dns_hosts(config: DhcpDnsConfig) -> str:
    """The names in the form of /etc/hosts, with and without the domain."""
    entries = {(nic.address, nic.name) for nic in config.reservations}
    entries |= {(extra.address, extra.name) for extra in config.names}
    return "".join(f"{address} {name}.{config.domain} {name}\n" for address, name in sorted(entries))


def _sorted(reservations: tuple[Reservation, ...]) -> list[Reservation]:
    return sorted(reservations, key=lambda item: (item.address, item.mac))
