"""Which hosts run an Endophyte: a pure choice over inventory and what is placed already."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from vdc.model.endophyte import Endophyte, MachineFacts
from vdc.model.errors import RefusedError
from vdc.model.host import Host
from vdc.model.pair import Pair
from vdc.model.units import MIB, format_size

PRIMARY_OVERHEAD_BYTES = 80 * MIB  # booked for QEMU itself
SECONDARY_OVERHEAD_BYTES = 180 * MIB  # QEMU and COLO's cache book-keeping (lockstep.md, decision 8)


def primary_cost_bytes(endophyte: Endophyte) -> int:
    """Host memory that a running primary may take."""
    return endophyte.manifest.spec.resources.memory + PRIMARY_OVERHEAD_BYTES


def secondary_cost_bytes(endophyte: Endophyte) -> int:
    """Host memory that a secondary may take: the guest's memory twice (itself and the checkpoint cache)."""
    return 2 * endophyte.manifest.spec.resources.memory + SECONDARY_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What is placed where, as the arbitration records say."""

    reserved_bytes: Mapping[str, int]
    names: Mapping[str, tuple[str, ...]]
    dedicated: frozenset[str]  # hosts that a dedicated Endophyte keeps for itself

    @classmethod
    def of(
        cls, pairs: Iterable[Pair], endophytes: Mapping[str, Endophyte], *, without: str = ""
    ) -> Occupancy:
        """Add up all pairs but the one named `without`."""
        reserved: dict[str, int] = {}
        names: dict[str, tuple[str, ...]] = {}
        dedicated: set[str] = set()
        for pair in pairs:
            endophyte = endophytes.get(pair.name)
            if endophyte is None or pair.name == without:
                continue
            for host in pair.hosts:
                cost = primary_cost_bytes if host == pair.primary else secondary_cost_bytes
                reserved[host] = reserved.get(host, 0) + cost(endophyte)
                names[host] = (*names.get(host, ()), pair.name)
                if endophyte.manifest.is_dedicated:
                    dedicated.add(host)
        return cls(reserved, names, frozenset(dedicated))


def why_not(endophyte: Endophyte, host: Host, occupancy: Occupancy, need_bytes: int) -> str:
    """The reason why `host` cannot take a copy that needs `need_bytes`; empty where it can."""
    if host.is_witness:
        return "is a witness"
    if not host.schedulable:
        return "is drained"
    for key, value in endophyte.manifest.spec.placement.node_selector.items():
        if host.labels.get(key) != value:
            return f"lacks the label {key}={value}"
    if host.name in occupancy.dedicated:
        return "is dedicated to another Endophyte"
    if endophyte.manifest.is_dedicated and occupancy.names.get(host.name):
        return f"already runs {occupancy.names[host.name][0]}, and this one wants a host for itself"
    free = host.memory_bytes - occupancy.reserved_bytes.get(host.name, 0)
    if free < need_bytes:
        return f"has {format_size(max(0, free))} of memory free, {format_size(need_bytes)} are needed"
    return ""


def as_started(host: Host, machine: MachineFacts | None) -> Host:
    """A primary's host with the QEMU that its guest was started by: an upgrade may have come since."""
    if machine is None:
        return host
    return host.with_(qemu=host.qemu.with_(version=machine.qemu_version))


def why_not_a_pair(primary: Host, secondary: Host) -> str:
    """The reason why two hosts cannot be in lockstep with each other; empty where they can.

    `primary` is to be `as_started`.
    """
    if secondary.is_witness:
        return "is a witness"
    for host in (primary, secondary):
        if not host.qemu.lockstep:
            return (
                f"QEMU {host.qemu.version or '(none)'} on {host.name} cannot do lockstep: {host.qemu.reason}"
            )
    if primary.qemu.version != secondary.qemu.version:
        return f"{primary.name} runs QEMU {primary.qemu.version}, {secondary.name} {secondary.qemu.version}"
    if primary.accelerator.name != secondary.accelerator.name:
        ways = [f"{host.name} runs guests by {host.accelerator.name}" for host in (primary, secondary)]
        return ", ".join(ways)
    return ""


def _roomiest_first(hosts: Iterable[Host], occupancy: Occupancy) -> list[Host]:
    def room(host: Host) -> tuple[int, str]:
        return (occupancy.reserved_bytes.get(host.name, 0) - host.memory_bytes, host.name)

    return sorted(hosts, key=room)


def _refusal(endophyte: Endophyte, reasons: Mapping[str, str], what: str) -> RefusedError:
    listed = "; ".join(f"{host} {reason}" for host, reason in sorted(reasons.items()))
    return RefusedError(
        f"no host can take {what} of {endophyte.name}: {listed or 'no host is alive'}",
        code="no-host",
        hint="free memory, add a host, or ask for less with --memory",
    )


def choose_primary(endophyte: Endophyte, alive: Iterable[Host], occupancy: Occupancy) -> str:
    """The host with most room. Raises RefusedError (`no-host`) with each host's reason."""
    reasons: dict[str, str] = {}
    for host in _roomiest_first(alive, occupancy):
        reason = why_not(endophyte, host, occupancy, primary_cost_bytes(endophyte))
        if not reason:
            return host.name
        reasons[host.name] = reason
    raise _refusal(endophyte, reasons, "the primary")


def choose_secondary(
    endophyte: Endophyte,
    pair: Pair,
    alive: Iterable[Host],
    occupancy: Occupancy,
    *,
    avoid: frozenset[str] = frozenset(),
    unreachable: frozenset[str] = frozenset(),
    busy: frozenset[str] = frozenset(),
    older: Collection[str] = (),
) -> str:
    """The best host for lockstep with the pair's primary: spares in their order, then by room.

    `avoid` are backing off. `busy` come last, and `older` (hosts that keep an older copy) before the spares.

    `unreachable`: hosts that the primary's agent cannot rely on over the replication network.

    Raises RefusedError (`no-host`) with each host's reason.
    """
    by_name = {host.name: host for host in alive}
    primary = by_name.get(pair.primary)
    if primary is None:
        raise RefusedError(f"the primary's host {pair.primary} does not answer", code="no-host")
    reasons: dict[str, str] = {}
    others = _roomiest_first((h for h in by_name.values() if h.name != pair.primary), occupancy)
    rank = {name: place for place, name in enumerate(pair.spares)}

    def order(host: Host) -> tuple[bool, bool, int]:
        return (host.name in busy, host.name not in older, rank.get(host.name, len(rank)))

    for host in sorted(others, key=order):
        reason = why_not_a_pair(primary, host) or why_not(
            endophyte, host, occupancy, secondary_cost_bytes(endophyte)
        )
        if not reason and host.name in unreachable:
            reason = f"and {primary.name} do not hear each other steadily over the replication network"
        if not reason and host.name in avoid:
            reason = "failed a moment ago and is left alone for a while"
        if not reason:
            return host.name
        reasons[host.name] = reason
    raise _refusal(endophyte, reasons, "a secondary")


def choose_spares(
    endophyte: Endophyte, pair: Pair, alive: Iterable[Host], occupancy: Occupancy
) -> tuple[str, ...]:
    """Hosts held ready beside the pair, as many as `dedicatedNodes` leaves; present ones are kept."""
    wanted = max(0, endophyte.manifest.spec.virtual_computer.dedicated_nodes - len(pair.hosts))
    able = [
        host.name
        for host in _roomiest_first(alive, occupancy)
        if host.name not in pair.hosts
        and not why_not(endophyte, host, occupancy, secondary_cost_bytes(endophyte))
    ]
    return tuple(sorted(able, key=lambda name: name not in pair.spares)[:wanted])
