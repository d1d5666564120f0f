"""The overlay network of one host: bridge, VXLAN, taps, forwarding entries, replication routes, DHCP and DNS.

    from hostagent.drivers.net import Netlink, OverlayNetwork, Port, ReplicationRoutes

Share one `Netlink` between them: one socket, one thread, everything in order.
"""

from hostagent.drivers.net.dhcpdns import DhcpDnsConfig, DnsName, Reservation
from hostagent.drivers.net.dnsmasq import Change, DhcpDns, dnsmasq_argv
from hostagent.drivers.net.errors import ForeignLinkError, KernelRefusedError, NetworkTimeoutError
from hostagent.drivers.net.names import bridge_name, tap_name, vxlan_name
from hostagent.drivers.net.netlink import Netlink
from hostagent.drivers.net.overlay import OverlayNetwork
from hostagent.drivers.net.ports import Port, PortState
from hostagent.drivers.net.routes import ReplicationRoutes
from hostagent.drivers.net.tap import close_taps, open_taps
from hostagent.drivers.net.watch import EventKind, NetworkEvent, watch_network

__all__ = [
    "Change",
    "DhcpDns",
    "DhcpDnsConfig",
    "DnsName",
    "EventKind",
    "ForeignLinkError",
    "KernelRefusedError",
    "Netlink",
    "NetworkEvent",
    "NetworkTimeoutError",
    "OverlayNetwork",
    "Port",
    "PortState",
    "ReplicationRoutes",
    "Reservation",
    "bridge_name",
    "close_taps",
    "dnsmasq_argv",
    "open_taps",
    "tap_name",
    "vxlan_name",
    "watch_network",
]
