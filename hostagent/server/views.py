"""From the mirror's records to what the API shows."""

from __future__ import annotations

from hostagent.supervisor.node import NodeContext
from vdc.api.models import EndophyteDescription, EndophyteView, ViewMetadata
from vdc.control.drain import situation
from vdc.control.events import read_events
from vdc.model.endophyte import CopyRole, CopyStage, Endophyte, RunState
from vdc.model.errors import NotFoundError, RefusedError, UnavailableError
from vdc.model.event import Event
from vdc.model.host import NodeStatus
from vdc.model.manifest import Display, Firmware
from vdc.model.program import volumes_on_root
from vdc.model.secrets import masked
from vdc.protection.majority import pair_without_witness
from vdc.protection.placement import (
    Occupancy,
    choose_primary,
    primary_cost_bytes,
    secondary_cost_bytes,
)
from vdc.protection.status import endophyte_status
from vdc.store import keys
from vdc.store.etcd_admin import MemberStatus
from vdc.store.mirror import Mirror


async def find_endophyte(mirror: Mirror, name: str) -> Endophyte:
    """Raises NotFoundError with the way to see what there is; UnavailableError where that cannot be known.

    One that was just created by way of another host may not be in the mirror yet, so the store is asked.
    """
    if mirror.endophyte(name) is None:
        await mirror.refresh(keys.endophyte(name))
    endophyte = mirror.endophyte(name)
    if endophyte is None:
        raise NotFoundError(
            f"there is no Endophyte named {name}", code="endophyte-not-found", hint="vdc get endophytes"
        )
    return endophyte


def endophyte_view(mirror: Mirror, endophyte: Endophyte) -> EndophyteView:
    """The object as scripts rely on it. All that leaves the API of a manifest is made here, its secrets hidden."""
    name = endophyte.name
    pair = mirror.pair(name)
    if pair is not None and pair.uid != endophyte.uid:
        pair = None
    manifest = masked(endophyte.manifest)
    return EndophyteView(
        metadata=ViewMetadata(
            name=name,
            uid=endophyte.uid,
            generation=endophyte.generation,
            createdAt=endophyte.created_at,
            labels=manifest.metadata.labels,
            annotations=manifest.metadata.annotations,
        ),
        spec=manifest.spec.model_dump(mode="json", by_alias=True),
        status=endophyte_status(
            endophyte,
            pair,
            mirror.copies(name),
            mirror.alive,
            _problem(mirror, endophyte),
            known=frozenset(mirror.hosts),
        ),
    )


def _problem(mirror: Mirror, endophyte: Endophyte) -> str:
    """Why it is not placed, or has no secondary though it should; found by trying the placement."""
    pair = mirror.pair(endophyte.name)
    if endophyte.deleting or (pair is not None and (pair.secondary or not endophyte.wants_protection)):
        return ""
    try:
        if pair is not None:
            situation(mirror, endophyte, pair).place_for_copy()
            return ""
        hosts = [found.value for name, found in mirror.hosts.items() if name in mirror.alive]
        endophytes = {name: found.value for name, found in mirror.endophytes.items()}
        pairs = (found.value for found in mirror.pairs.values())
        choose_primary(endophyte, hosts, Occupancy.of(pairs, endophytes, without=endophyte.name))
    except RefusedError as refusal:
        return str(refusal)
    return ""


async def events(host: NodeContext, name: str | None, limit: int) -> tuple[Event, ...]:
    """The latest events, oldest first; while the store does not answer, those that wait in this agent."""
    kept = host.events.kept_of(name)
    try:
        if host.is_store_lost:
            return kept[-limit:]
        stored = await read_events(host.store, name=name, limit=limit)
    except UnavailableError:
        return kept[-limit:]
    known = {event.id for event in stored}
    return (*stored, *(event for event in kept if event.id not in known))[-limit:]


async def describe(host: NodeContext, endophyte: Endophyte) -> EndophyteDescription:
    """Everything that is known of one."""
    mirror = host.mirror
    return EndophyteDescription(
        view=endophyte_view(mirror, endophyte),
        pair=mirror.pair(endophyte.name),
        copies=mirror.copies(endophyte.name),
        events=await events(host, endophyte.name, 15),
        limits=(
            *limits_of(endophyte),
            *_cluster_limits(host, endophyte),
            *_volume_limits(mirror, endophyte),
        ),
    )


def _volume_limits(mirror: Mirror, endophyte: Endophyte) -> tuple[str, ...]:
    found = mirror.images.get(endophyte.image_digest)
    folders = volumes_on_root(endophyte.manifest.spec, found.value.image) if found else ()
    return tuple(f"the image wants a volume at {folder}: it lies on the root disk" for folder in folders)


def _cluster_limits(host: NodeContext, endophyte: Endophyte) -> tuple[str, ...]:
    embedded = host.config.etcd.embedded
    note = pair_without_witness(len(embedded.members)) if embedded is not None else None
    return (note,) if note and endophyte.manifest.spec.wants_protection else ()


def limits_of(endophyte: Endophyte) -> tuple[str, ...]:
    """What lockstep does not cover for this one (lockstep.md, limits)."""
    spec = endophyte.manifest.spec
    if not spec.wants_protection:
        return ()
    uncovered = "IPv6, and IPv4 other than TCP, UDP and ICMP,"
    limits = [
        f"{uncovered} is held back at the guest's port; protection.uncoveredTraffic: pass lets it through"
        if spec.is_gated
        else f"{uncovered} passes without the secondary's consent: a failover may take back what a peer has seen",
        "ARP is not compared between the copies; IPv4 TCP, UDP and ICMP are",
        "the serial console shows the primary's copy; what it printed last may be missing after a failover",
    ]
    if endophyte.firmware is not Firmware.BIOS:
        limits.append(
            "UEFI variables that the guest writes while protected do not reach the secondary's flash"
        )
    if spec.display is not Display.NONE:
        limits.append("the screen of the secondary is its own until it is promoted")
    return tuple(limits)


def node_statuses(mirror: Mirror, members: tuple[MemberStatus, ...]) -> tuple[NodeStatus, ...]:
    """All hosts with what runs on them."""
    states = {member.endpoint: member for member in members}
    found = []
    for name, versioned in sorted(mirror.hosts.items()):
        host = versioned.value
        member = next(
            (state for url, state in states.items() if f"//{host.management_address}:" in url), None
        )
        reserved, names = _reserved(mirror, name)
        found.append(
            NodeStatus(
                host=host,
                alive=name in mirror.alive,
                is_leader=mirror.leader == name,
                etcd=_etcd_word(member),
                endophytes=names,
                memory_reserved_bytes=reserved,
                maintenance=mirror.maintenance[name].value if name in mirror.maintenance else None,
                is_empty=name in mirror.drained and all(_may_stay(mirror, one, name) for one in names),
            )
        )
    return tuple(found)


def _may_stay(mirror: Mirror, name: str, host: str) -> bool:
    """Whether a VM on a drained host is one that may stay: stopped, by the operator's leave."""
    wish, endophyte = mirror.maintenance.get(host), mirror.endophyte(name)
    is_stopped = endophyte is not None and endophyte.run is RunState.STOPPED
    return is_stopped and wish is not None and wish.value.leave_stopped


def _etcd_word(member: MemberStatus | None) -> str:
    if member is None:
        return "external"
    if not member.is_healthy:
        return "unreachable"
    return "leader" if member.is_leader else "member"


def _reserved(mirror: Mirror, host: str) -> tuple[int, tuple[str, ...]]:
    reserved, names = 0, []
    for name, found in sorted(mirror.pairs.items()):
        endophyte = mirror.endophyte(name)
        if endophyte is None or host not in found.value.hosts:
            continue
        is_primary = found.value.primary == host
        reserved += primary_cost_bytes(endophyte) if is_primary else secondary_cost_bytes(endophyte)
        names.append(name)
    return reserved, tuple(names)


def running_primary(mirror: Mirror, name: str) -> str | None:
    """The host whose copy runs as primary now."""
    pair = mirror.pair(name)
    if pair is None:
        return None
    observed = mirror.observed(name, pair.primary)
    off = (CopyStage.ABSENT, CopyStage.DEAD, CopyStage.PREPARING, CopyStage.FAILED)
    is_running = observed is not None and observed.role is CopyRole.PRIMARY and observed.stage not in off
    return pair.primary if is_running else None
