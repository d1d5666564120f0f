"""The columns of each kind of record."""

from __future__ import annotations

from datetime import UTC, datetime

from vdc.api.models import Check, EndophyteView, ImageView
from vdc.cli.templates import Template
from vdc.cli.text import Column, age
from vdc.model.audit import AuditEntry
from vdc.model.event import Event
from vdc.model.guest import ProgramState, ProgramStatus
from vdc.model.host import NodeStatus
from vdc.model.network import Network
from vdc.model.units import format_size


def _age(since: str) -> str:
    return age(since, datetime.now(UTC))


def endophyte_columns() -> list[Column[EndophyteView]]:
    """NAME PHASE PROTECTION UNPROTECTED PRIMARY SECONDARY EPOCH ADDRESS AGE, and more with `wide`."""
    return [
        Column("NAME", lambda v: v.metadata.name),
        Column("PHASE", lambda v: v.status.phase.value),
        Column("PROTECTION", lambda v: v.status.protection.value),
        Column("UNPROTECTED", lambda v: v.status.unprotectedSince and _age(v.status.unprotectedSince)),
        Column("PRIMARY", lambda v: v.status.primary and v.status.primary.host),
        Column("SECONDARY", lambda v: v.status.secondary and v.status.secondary.host),
        Column("EPOCH", lambda v: v.status.epoch),
        Column("ADDRESS", lambda v: v.status.addresses),
        Column("AGE", lambda v: _age(v.metadata.createdAt)),
        Column("SPARES", lambda v: v.status.spares, wide=True),
        Column("IMAGE", lambda v: v.spec.get("image"), wide=True),
        Column("PROGRAM", lambda v: program_word(v.status.program), wide=True),
        Column("CHECKPOINTS", lambda v: v.status.checkpoints.count, wide=True),
        Column("SENTENCE", lambda v: v.status.sentence, wide=True),
    ]


def program_word(program: ProgramStatus | None) -> str | None:
    """`running`, `running, not ready`, `waiting (1)`, with the number of restarts; None for what is no container."""
    if program is None:
        return None
    word = program.state
    if program.state == ProgramState.RUNNING and not program.ready:
        word += ", not ready"
    if program.state in (ProgramState.WAITING, ProgramState.ENDED) and program.exit_code is not None:
        word += f" ({program.exit_code})"
    if program.restarts:
        word += f", {program.restarts} restart{'s' if program.restarts > 1 else ''}"
    return word


def node_columns() -> list[Column[NodeStatus]]:
    """NAME STATUS ROLE STORE ENDOPHYTES CPUS MEMORY QEMU AGE, and more with `wide`."""
    return [
        Column("NAME", lambda n: n.host.name),
        Column("STATUS", _node_state),
        Column("ROLE", _node_role),
        Column("STORE", lambda n: n.etcd),
        Column("ENDOPHYTES", lambda n: n.endophytes),
        Column("CPUS", lambda n: n.host.cpus),
        Column(
            "MEMORY", lambda n: f"{format_size(n.memory_reserved_bytes)}/{format_size(n.host.memory_bytes)}"
        ),
        Column("QEMU", lambda n: n.host.qemu.version),
        Column("AGE", lambda n: _age(n.host.started_at)),
        Column("LOCKSTEP", lambda n: "yes" if n.host.qemu.lockstep else "no", wide=True),
        Column("ACCELERATOR", lambda n: n.host.accelerator.name, wide=True),
        Column("MANAGEMENT", lambda n: n.host.management_address, wide=True),
        Column("REPLICATION", lambda n: n.host.replication_address, wide=True),
        Column("OVERLAY", lambda n: n.host.overlay_address, wide=True),
        Column("AGENT", lambda n: n.host.agent_version, wide=True),
    ]


def _node_role(node: NodeStatus) -> str | None:
    words = ["witness"] if node.host.is_witness else []
    return ",".join(words + ["leader"] * node.is_leader) or None


def _node_state(node: NodeStatus) -> str:
    if not node.alive:
        return "NotReady,drained" if node.maintenance else "NotReady"
    if node.maintenance:
        return "Ready,drained" if node.is_empty else "Ready,draining"
    return "Ready" if node.host.schedulable else "Ready,unschedulable"


def image_columns() -> list[Column[ImageView]]:
    """NAME DIGEST KIND SIZE HOSTS ENDOPHYTES AGE, and more with `wide`."""
    return [
        Column("NAME", lambda i: i.names),
        Column("DIGEST", lambda i: i.digest.removeprefix("sha256:")[:12]),
        Column("KIND", lambda i: i.image.kind.value),
        Column("SIZE", lambda i: format_size(i.size_bytes)),
        Column("HOSTS", lambda i: i.hosts),
        Column("ENDOPHYTES", lambda i: i.used_by),
        Column("AGE", lambda i: _age(i.created_at)),
        Column("ARCH", lambda i: i.image.arch, wide=True),
        Column("DISK", lambda i: format_size(i.image.disk_virtual_bytes), wide=True),
        Column("FORMAT", lambda i: i.image.disk_format, wide=True),
        Column("SOURCE", lambda i: i.source, wide=True),
    ]


def network_columns() -> list[Column[Network]]:
    """NAME CIDR VNI GUESTS DOMAIN, and more with `wide`."""
    return [
        Column("NAME", lambda n: n.name),
        Column("CIDR", lambda n: n.cidr),
        Column("VNI", lambda n: n.vni),
        Column("GUESTS", lambda n: f"{n.guest_first}-{n.guest_last}"),
        Column("DOMAIN", lambda n: n.domain),
        Column("MTU", lambda n: n.mtu, wide=True),
        Column("EXTERNAL", lambda n: n.external_vteps, wide=True),
    ]


def event_columns() -> list[Column[Event]]:
    """TIME SEVERITY OBJECT HOST EPOCH CODE SENTENCE, and more with `wide`."""
    return [
        Column("TIME", lambda e: _clock(e.at)),
        Column("SEVERITY", lambda e: e.severity.value),
        Column("OBJECT", lambda e: f"{e.kind}/{e.name}"),
        Column("HOST", lambda e: e.host),
        Column("EPOCH", lambda e: e.epoch or None),
        Column("CODE", lambda e: e.code),
        Column("SENTENCE", lambda e: e.sentence),
        Column("FIGURES", lambda e: [f"{key}={value:g}" for key, value in e.figures.items()], wide=True),
    ]


def _clock(at: str) -> str:
    """The time of day with milliseconds, UTC; the whole text where it is no RFC 3339 time."""
    try:
        return datetime.fromisoformat(at).astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]
    except ValueError:
        return at


def audit_columns() -> list[Column[AuditEntry]]:
    """SEQ TIME WHO FROM WHAT OBJECT RESULT EPOCH HOST, and more with `wide`."""
    return [
        Column("SEQ", lambda e: e.seq),
        Column("TIME", lambda e: e.at[:19].replace("T", " ")),
        Column("WHO", lambda e: "/".join(e.who.split("/")[-2:])),
        Column("FROM", lambda e: e.address),
        Column("WHAT", lambda e: e.what),
        Column("OBJECT", lambda e: e.object),
        Column("RESULT", lambda e: e.result if e.count == 1 else f"{e.result} ({e.count} times)"),
        Column("EPOCH", lambda e: e.epoch or None),
        Column("HOST", lambda e: e.host),
        Column("DETAIL", lambda e: e.detail, wide=True),
        Column("VIA", lambda e: e.via, wide=True),
        Column("REQUEST", lambda e: e.id, wide=True),
        Column("LOST", lambda e: e.gap or None, wide=True),
        Column("LINEAGE", lambda e: e.lineage or None, wide=True),
    ]


def template_columns() -> list[Column[Template]]:
    """NAME IMAGE CPUS MEMORY DESCRIPTION."""
    return [
        Column("NAME", lambda t: t.name),
        Column("IMAGE", lambda t: t.manifest.spec.image),
        Column("CPUS", lambda t: t.manifest.spec.resources.cpus),
        Column("MEMORY", lambda t: format_size(t.manifest.spec.resources.memory)),
        Column("FIRMWARE", lambda t: t.manifest.spec.firmware, wide=True),
        Column("DESCRIPTION", lambda t: t.description),
    ]


def check_columns() -> list[Column[tuple[str, Check]]]:
    """HOST CHECK LEVEL SENTENCE of the doctor."""
    return [
        Column("HOST", lambda row: row[0]),
        Column("CHECK", lambda row: row[1].name),
        Column("LEVEL", lambda row: row[1].level),
        Column("SENTENCE", lambda row: row[1].sentence),
    ]
