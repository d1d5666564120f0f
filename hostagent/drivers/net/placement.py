"""What has to change in a VXLAN's forwarding database: desired against present. Pure.

`None` as an endpoint means "here" (a black hole towards the outside, see `messages.place_mac`).
Learned entries are the kernel's; they are never in a plan, except that a static one replaces them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hostagent.drivers.net.messages import FLOOD_MAC, FdbEntry


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """Entries to write and MACs whose static entry is stale."""

    write: tuple[tuple[str, str | None], ...]
    forget: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to do."""
        return not self.write and not self.forget


@dataclass(frozen=True, slots=True)
class FloodPlan:
    """Endpoints to add to and to take out of the flood list."""

    add: tuple[str, ...]
    remove: tuple[str, ...]


def plan_placements(desired: Mapping[str, str | None], present: Iterable[FdbEntry]) -> PlacementPlan:
    """Compare the placements of all guest MACs with the database; everything static and not desired goes."""
    static = {entry.mac: entry.vtep for entry in present if entry.is_static and entry.mac != FLOOD_MAC}
    wanted = {mac.lower(): vtep for mac, vtep in desired.items()}
    write = tuple((mac, vtep) for mac, vtep in wanted.items() if mac not in static or static[mac] != vtep)
    return PlacementPlan(write=write, forget=tuple(mac for mac in static if mac not in wanted))


def plan_flood(desired: Iterable[str], present: Iterable[FdbEntry]) -> FloodPlan:
    """Compare the endpoints that broadcast frames have to reach with those that they reach now."""
    reached = {entry.vtep for entry in present if entry.mac == FLOOD_MAC and entry.vtep}
    wanted = dict.fromkeys(desired)
    return FloodPlan(
        add=tuple(vtep for vtep in wanted if vtep not in reached),
        remove=tuple(sorted(reached - wanted.keys())),
    )
