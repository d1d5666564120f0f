"""Faults of a host's wires, made where a real one would be: at the switch.

A cut drops frames in silence and leaves the carrier up, by flags of the bridge's port: it learns nothing and
holds no forwarding entry, so a *locked* port accepts no frame (Linux 5.18 and newer), and a port without
flooding is sent none. No nftables, tc classifier or program is needed. The one visible trace is in the flags,
from which the present state is read back; nothing else remembers it.

A slow wire is a token bucket on both ends. A host without power has its ports down: carrier lost at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vdc.lab import kernel
from vdc.lab.models import Direction
from vdc.lab.network import link_index, netlink
from vdc.lab.plan import HostPlan, LabPlan, Underlay
from vdc.model.errors import InvalidError, RefusedError

_IFF_UP = 1
_ROOT = 0xFFFFFFFF  # TC_H_ROOT
_MTU_BYTES = 1514
_LEAST_BURST_BYTES = 16 * _MTU_BYTES
_QUEUE = "200ms"
_RATE = re.compile(r"([1-9][0-9]{0,5})(bit|kbit|mbit|gbit)")
_BITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_LEAST_RATE, _MOST_RATE = 8_000, 30_000_000_000


@dataclass(frozen=True, slots=True)
class WireState:
    """One wire of a host as the switch shows it."""

    is_up: bool
    drops_in: bool = False  # nothing reaches the host
    drops_out: bool = False  # nothing leaves it
    is_slow: bool = False


def parse_rate(text: str) -> int:
    """Bits per second of `1mbit`, `500kbit`, `1gbit`; raises `InvalidError` (`rate-invalid`)."""
    match = _RATE.fullmatch(text.lower())
    bits = int(match[1]) * _BITS[match[2]] if match else 0
    if not _LEAST_RATE <= bits <= _MOST_RATE:
        raise InvalidError(
            f"{text[:40]!r} is not a rate",
            hint="write for example 1mbit, between 8kbit and 30gbit",
            code="rate-invalid",
        )
    return bits


def wire_state(plan: LabPlan, host: HostPlan, underlay: Underlay) -> WireState:
    """Read a wire's state back from the kernel."""

    def read() -> WireState:
        with netlink() as ip:
            index = link_index(ip, host.name)
            if index is None:
                return WireState(is_up=False)
            link = ip.link("get", index=index)[0]
            port = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_SLAVE_DATA")
            return WireState(
                is_up=bool(link["flags"] & _IFF_UP),
                drops_in=not port.get_attr("IFLA_BRPORT_UNICAST_FLOOD"),
                drops_out=bool(port.get_attr("IFLA_BRPORT_LOCKED")),
                is_slow=_has_bucket(ip, index),
            )

    return kernel.in_namespace(plan.switch(underlay), read)


def cut_power(plan: LabPlan, host: HostPlan) -> None:
    """Take both wires down at the same moment; nothing that the host still sends gets anywhere."""

    def down(ip: Any, index: int) -> None:
        ip.link("set", index=index, state="down")

    with ThreadPoolExecutor(len(Underlay)) as pool:
        list(pool.map(lambda underlay: _at_port(plan, host, underlay, down), Underlay))


def partition(plan: LabPlan, host: HostPlan, underlay: Underlay, direction: Direction) -> None:
    """Drop in silence, in addition to what is dropped already."""

    def cut(ip: Any, index: int) -> None:
        flags: dict[str, int | bool] = {"learning": 0, "flush": True}
        if direction is not Direction.OUT:
            flags |= {"unicast_flood": 0, "mcast_flood": 0, "bcast_flood": 0}
        if direction is not Direction.IN:
            flags |= {"locked": 1}
        ip.brport("set", index=index, **flags)
        # Once more: a frame that was under way may have been learnt after the first flush.
        ip.brport("set", index=index, flush=True)

    _at_port(plan, host, underlay, cut)
    if direction is not Direction.IN and not wire_state(plan, host, underlay).drops_out:
        heal(plan, host, underlay)
        raise RefusedError(
            "this kernel's bridge cannot lock a port",
            hint="Linux 5.18 or newer is needed",
            code="partition-unsupported",
        )


def slow(plan: LabPlan, host: HostPlan, underlay: Underlay, bits_per_s: int) -> None:
    """Limit a wire to a rate in both directions; a rate set before is replaced."""

    def limit(ip: Any, index: int) -> None:
        burst = max(_LEAST_BURST_BYTES, bits_per_s // 8 // 100)
        ip.tc("replace", "tbf", index, 0, parent=_ROOT, rate=bits_per_s / 8, burst=burst, latency=_QUEUE)

    _at_port(plan, host, underlay, limit)
    _at_leg(host, underlay, limit)


def heal(plan: LabPlan, host: HostPlan, underlay: Underlay) -> None:
    """Undo `partition` and `slow` on a wire; the port itself stays as it is, up or down."""

    def mend(ip: Any, index: int) -> None:
        flags = {"learning": 1, "unicast_flood": 1, "mcast_flood": 1, "bcast_flood": 1, "locked": 0}
        ip.brport("set", index=index, flush=True, **flags)
        _remove_bucket(ip, index)

    _at_port(plan, host, underlay, mend)
    _at_leg(host, underlay, _remove_bucket)


def _at_port(plan: LabPlan, host: HostPlan, underlay: Underlay, work: Callable[[Any, int], None]) -> None:
    kernel.in_namespace(plan.switch(underlay), lambda: _with_link(host.name, work))


def _at_leg(host: HostPlan, underlay: Underlay, work: Callable[[Any, int], None]) -> None:
    kernel.in_namespace(host.namespace, lambda: _with_link(underlay.interface, work))


def _with_link(name: str, work: Callable[[Any, int], None]) -> None:
    with netlink() as ip:
        if (index := link_index(ip, name)) is not None:
            work(ip, index)


def _has_bucket(ip: Any, index: int) -> bool:
    return any(qdisc.get_attr("TCA_KIND") == "tbf" for qdisc in ip.get_qdiscs(index))


def _remove_bucket(ip: Any, index: int) -> None:
    if _has_bucket(ip, index):
        ip.tc("del", index=index, handle=0, parent=_ROOT)
