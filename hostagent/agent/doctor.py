"""What this host can and cannot do, as findings with a hint."""

from __future__ import annotations

import asyncio

from hostagent.agent.cached import Cached
from hostagent.config import AgentConfig
from hostagent.drivers.etcd import timing_warnings
from hostagent.drivers.host.permissions import exposed, programs
from hostagent.drivers.host.room import room
from hostagent.drivers.process.cgroup import Groups
from hostagent.supervisor.node import NodeContext
from vdc.api.models import Check
from vdc.control.clock import Clock
from vdc.store.etcd_admin import MemberStatus

_PROGRAMS_EVERY_S = 60.0
_UNHEARD = "its agent publishes its certificate when it starts; if that is another cluster's, join it anew"


def host_checks(
    host: NodeContext, members: tuple[MemberStatus, ...], underlay: str, packet_filter: str, groups: Groups
) -> tuple[Check, ...]:
    """All findings about this host.

    `underlay`, `packet_filter`: what is wrong with the network below the overlay and with the rules, if anything.
    """
    return (
        _qemu(host),
        _accelerator(host),
        _inventory(host),
        _store(host, members),
        *_arbiter_timing(host, members),
        _disk(host),
        _limits(groups),
        *([Check(name="underlay", level="error", sentence=underlay)] if underlay else []),
        _packet_filter(packet_filter),
        *_links(host),
        *_orphans(host),
        *(Check(name="host", level="warning", sentence=warning) for warning in host.record.warnings),
    )


def programs_check(config: AgentConfig, clock: Clock) -> Cached[Check]:
    """Whether others could change what this agent runs; looking at all of it takes a second."""

    async def look() -> Check:
        return program_check(await asyncio.to_thread(exposed, programs(config.runtime)))

    return Cached(look, _PROGRAMS_EVERY_S, clock.boottime_s)


def program_check(exposure: str) -> Check:
    """Whether others could change what this agent runs; `exposure` says what and who, if anybody."""
    if not exposure:
        return Check(name="programs", level="ok", sentence="only root can change what the agent runs")
    return Check(
        name="programs",
        level="warning",
        sentence=f"{exposure}: whoever changes it acts as root",
        hint="chown -R root: it, chmod -R go-w it",
    )


def witness_checks(
    host: NodeContext, members: tuple[MemberStatus, ...], packet_filter: str
) -> tuple[Check, ...]:
    """All findings about a witness; see `host_checks`."""
    return (
        Check(name="role", level="ok", sentence=f"{host.name} is a witness: it votes and runs no guests"),
        _store(host, members),
        *_arbiter_timing(host, members),
        _disk(host),
        _packet_filter(packet_filter),
        *_links(host),
    )


def _qemu(host: NodeContext) -> Check:
    qemu = host.record.qemu
    if qemu.lockstep:
        return Check(name="qemu", level="ok", sentence=f"QEMU {qemu.version} can do lockstep")
    return Check(
        name="qemu",
        level="error",
        sentence=f"QEMU {qemu.version or '(not found)'} cannot do lockstep: {qemu.reason}",
        hint="use the runtime root: `make setup`, or install QEMU 11.0 or newer",
    )


def _accelerator(host: NodeContext) -> Check:
    accelerator = host.record.accelerator
    if accelerator.name == "kvm":
        return Check(name="accelerator", level="ok", sentence="guests run on KVM")
    return Check(
        name="accelerator",
        level="warning",
        sentence=f"guests are emulated (TCG), which is slow: {accelerator.reason or 'KVM is not used'}",
        hint="enable virtualization in the firmware and load kvm_intel or kvm_amd",
    )


def _inventory(host: NodeContext) -> Check:
    if host.record.inventory_source == "libvirt":
        return Check(
            name="inventory", level="ok", sentence=f"libvirt describes the CPU as {host.record.cpu_model}"
        )
    return Check(
        name="inventory",
        level="warning",
        sentence="without libvirt the CPU model that all hosts can offer is not computed",
        hint="install libvirt-daemon-system",
    )


def _store(host: NodeContext, members: tuple[MemberStatus, ...]) -> Check:
    healthy = sum(member.is_healthy for member in members)
    sentence = f"{healthy} of {len(members)} etcd members answer"
    if healthy * 2 <= len(members):
        return Check(
            name="etcd", level="error", sentence=f"{sentence}: no majority", hint="bring the other hosts back"
        )
    level = "ok" if healthy == len(members) else "warning"
    return Check(name="etcd", level=level, sentence=sentence)


def _arbiter_timing(host: NodeContext, members: tuple[MemberStatus, ...]) -> list[Check]:
    """An election that is shorter than the network allows would never end."""
    embedded = host.config.etcd.embedded
    if embedded is None or not members:
        return []
    measured = {member.endpoint: member.rtt_ms or None for member in members if member.is_healthy}
    return [
        Check(
            name="etcd",
            level="warning",
            sentence=warning,
            hint="raise etcd.embedded.heartbeat_ms and election_ms",
        )
        for warning in timing_warnings(embedded, measured)
    ]


def _orphans(host: NodeContext) -> list[Check]:
    """Copies that a store which was restored or replaced knows nothing of."""
    return [
        Check(
            name="records", level="error",
            sentence=f"{host.name} has a copy of {copy.name}, and the cluster knows neither it nor that it was deleted",
            hint=f"was etcd restored or replaced? vdc delete endophyte {copy.name} if the copy is to go",
        )
        for copy in host.mirror.orphans()
        if copy.host == host.name
    ]  # fmt: skip


def _limits(groups: Groups) -> Check:
    """A guest whose QEMU was taken over can otherwise take what the others need."""
    if not groups.missing:
        return Check(name="limits", level="ok", sentence="each guest has a control group")
    return Check(
        name="limits",
        level="warning",
        sentence=f"no control group limits what a guest takes: {', '.join(groups.missing)}",
        hint="run the agent by its systemd unit, on systemd 254 or newer with cgroup v2",
    )


def _disk(host: NodeContext) -> Check:
    found = room(host.config.state_dir)
    if not found.is_low:
        return Check(name="disk", level="ok", sentence=found.sentence)
    return Check(
        name="disk",
        level="warning",
        sentence=f"only {found.sentence}",
        hint="make room: a guest whose disk cannot grow stands still",
    )


def _packet_filter(trouble: str) -> Check:
    if not trouble:
        return Check(
            name="packet filter", level="ok", sentence="guests and the networks between hosts are filtered"
        )
    return Check(
        name="packet filter",
        level="error",
        sentence=trouble,
        hint="install nftables; the kernel needs nf_tables with bridge and inet support. No VM starts without it",
    )


def _links(host: NodeContext) -> list[Check]:
    checks = []
    for peer in sorted(host.mirror.hosts):
        if peer == host.name:
            continue
        if why := host.heartbeats.unheard_because(peer):
            sentence = f"{peer} cannot be heard: {why}"
            checks.append(Check(name="links", level="error", sentence=sentence, hint=_UNHEARD))
            continue
        silent = [n for n in ("management", "replication") if host.heartbeats.is_suspected(peer, n)]
        if silent:
            sentence = f"{peer} is not heard on the {' and '.join(silent)} network"
            checks.append(Check(name="links", level="warning", sentence=sentence, hint=f"is {peer} up?"))
        else:
            networks = "both networks" if host.mirror.hosts[peer].value.replication_address else "its network"
            checks.append(Check(name="links", level="ok", sentence=f"{peer} is heard on {networks}"))
    return checks
