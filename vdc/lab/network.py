"""The lab's networks: switches, legs and the client's place on the overlay.

A wire is made inside the switch's namespace with its other end born in the member's namespace: nothing passes
through the root namespace, not even for a moment. `power_on` wires a host anew, as a real host comes back
with none of its network state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from vdc.lab import kernel
from vdc.lab.plan import BRIDGE, CLIENT, CLIENT_OCTET, CLIENT_OVERLAY_LINK, HostPlan, LabPlan, Underlay

_LOOPBACK = 1
_PREFIX = 24
_VXLAN_PORT = 4789
_ANY_MAC = "00:00:00:00:00:00"


def read_marker(namespace: str) -> str | None:
    """Whose a namespace is: the alias of its loopback; None where it has none."""

    def read() -> str | None:
        with netlink() as ip:
            alias: str | None = ip.link("get", index=_LOOPBACK)[0].get_attr("IFLA_IFALIAS")
            return alias

    try:
        return kernel.in_namespace(namespace, read) if kernel.is_namespace(namespace) else None
    except FileNotFoundError:
        return None


def build(plan: LabPlan) -> None:
    """Make every namespace and wire of the lab."""
    for underlay in Underlay:
        _create(plan, plan.switch(underlay))
        kernel.in_namespace(plan.switch(underlay), _make_switch)
    for host in plan.hosts:
        power_on(plan, host)
    # Last: what it sends at once to hosts that are not there yet would leave neighbours unresolved for 1 s.
    _create(plan, plan.client_namespace)
    _wire(plan, Underlay.MANAGEMENT, CLIENT, plan.client_namespace, CLIENT_OCTET)
    kernel.in_namespace(plan.client_namespace, lambda: _join_overlay(plan))


def power_on(plan: LabPlan, host: HostPlan) -> None:
    """Give a host a new namespace and wires; whatever it had before is gone."""
    for underlay in Underlay:
        kernel.in_namespace(plan.switch(underlay), lambda: _unplug(host.name))
    kernel.remove_namespace(host.namespace)
    _create(plan, host.namespace)
    for underlay in Underlay:
        _wire(plan, underlay, host.name, host.namespace, host.index)


def replug(plan: LabPlan, host: HostPlan, underlay: Underlay) -> None:
    """Bring a host's port up again, or make the wire anew where it is gone."""

    def set_up() -> bool:
        with netlink() as ip:
            index = link_index(ip, host.name)
            if index is not None:
                ip.link("set", index=index, state="up")
            return index is not None

    if not kernel.in_namespace(plan.switch(underlay), set_up):
        _wire(plan, underlay, host.name, host.namespace, host.index)


def missing_parts(plan: LabPlan) -> tuple[str, ...]:
    """Sentences about namespaces and wires that ought to exist and do not."""
    absent = [name for name in plan.namespaces if not kernel.is_namespace(name)]
    if absent:
        return tuple(f"namespace {name} is missing" for name in absent)
    missing = []
    for underlay in Underlay:
        ports = kernel.in_namespace(plan.switch(underlay), link_names)
        members = [host.name for host in plan.hosts] + ([CLIENT] if underlay is Underlay.MANAGEMENT else [])
        missing += [f"{name} is not plugged into {underlay}" for name in members if name not in ports]
    if CLIENT_OVERLAY_LINK not in kernel.in_namespace(plan.client_namespace, link_names):
        missing.append("the client is not on the overlay")
    return tuple(missing)


@contextlib.contextmanager
def netlink() -> Iterator[Any]:
    """A netlink socket of the calling thread's namespace."""
    with IPRoute() as ip:
        yield ip


def link_index(ip: Any, name: str) -> int | None:
    """The index of an interface, or None."""
    found = ip.link_lookup(ifname=name)
    return int(found[0]) if found else None


def link_names() -> frozenset[str]:
    """The interfaces of the calling thread's namespace."""
    with netlink() as ip:
        return frozenset(link.get_attr("IFLA_IFNAME") for link in ip.get_links())


def _create(plan: LabPlan, namespace: str) -> None:
    def mark() -> None:
        with netlink() as ip:
            ip.link("set", index=_LOOPBACK, state="up", ifalias=plan.marker)

    kernel.create_namespace(namespace, mark)


def _make_switch() -> None:
    for scope in ("all", "default"):  # a switch has no addresses and says nothing of its own
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
    with netlink() as ip:
        ip.link("add", ifname=BRIDGE, kind="bridge", br_stp_state=0, br_mcast_snooping=0)
        ip.link("set", index=link_index(ip, BRIDGE), state="up")


def _wire(plan: LabPlan, underlay: Underlay, port: str, namespace: str, octet: int) -> None:
    with kernel.namespace_path(namespace).open("rb") as member:
        peer = {"ifname": underlay.interface, "net_ns_fd": member.fileno(), "address": underlay.mac(octet)}
        kernel.in_namespace(plan.switch(underlay), lambda: _plug(port, peer))
    kernel.in_namespace(namespace, lambda: _configure(underlay.interface, underlay.address(octet)))


def _plug(port: str, peer: dict[str, object]) -> None:
    with netlink() as ip:
        ip.link("add", ifname=port, kind="veth", peer=peer, master=link_index(ip, BRIDGE), state="up")


def _unplug(port: str) -> None:
    with netlink() as ip:
        if (index := link_index(ip, port)) is not None:
            ip.link("del", index=index)


def _configure(interface: str, address: IPv4Address) -> None:
    """Also announce the address when the link comes up, for those who ask for it in vain just now."""
    Path(f"/proc/sys/net/ipv4/conf/{interface}/arp_notify").write_text("1")
    with netlink() as ip:
        index = link_index(ip, interface)
        ip.addr("add", index=index, address=str(address), prefixlen=_PREFIX)
        ip.link("set", index=index, state="up")


def _join_overlay(plan: LabPlan) -> None:
    """A learning VXLAN device: the client follows a guest that moves by the guest's own announcements."""
    vteps: Iterable[str] = (str(host.address(Underlay.MANAGEMENT)) for host in plan.hosts)
    with netlink() as ip:
        ip.link(
            "add", ifname=CLIENT_OVERLAY_LINK, kind="vxlan", vxlan_id=plan.network.vni,
            vxlan_local=str(plan.client_vtep), vxlan_port=_VXLAN_PORT, vxlan_learning=1,
            vxlan_link=link_index(ip, Underlay.MANAGEMENT.interface),
        )  # fmt: skip
        index = link_index(ip, CLIENT_OVERLAY_LINK)
        ip.link("set", index=index, mtu=plan.network.mtu)
        ip.addr("add", index=index, address=str(plan.client_overlay), prefixlen=plan.network.cidr.prefixlen)
        ip.link("set", index=index, state="up")
        for vtep in vteps:
            ip.fdb("append", ifindex=index, lladdr=_ANY_MAC, dst=vtep)
