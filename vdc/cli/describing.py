"""The long form of one object: sections of aligned lines."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from typing import Any

from vdc.api.client import ApiClient
from vdc.api.models import EndophyteDescription, EndophyteView, ImageView
from vdc.cli.kinds import EVENT, IMAGE, NODE, Kind
from vdc.cli.render import print_values, values_of
from vdc.cli.tables import program_word
from vdc.cli.text import Column, Table, clean
from vdc.model.endophyte import Observed
from vdc.model.guest import AgentStatus, ProgramStatus
from vdc.model.host import NodeStatus
from vdc.model.process import ImageProcess
from vdc.model.units import format_size

Line = tuple[str, Any]
_SHOWN_EVENTS = 20


async def describe_endophyte(api: ApiClient, name: str, output: str | None) -> None:
    """Print what is known of one Endophyte."""
    description = await api.describe_endophyte(name)
    if output:
        print_values(values_of(description), output)
        return
    print("\n".join(endophyte_text(description)))


async def describe_record(api: ApiClient, kind: Kind, name: str, output: str | None) -> None:
    """Print one record of another kind."""
    record = await kind.get(api, name)
    if output:
        print_values(values_of(record), output)
    elif kind is NODE:
        print("\n".join(_aligned(_node_lines(record))))
    elif kind is IMAGE:
        print("\n".join(_aligned(_image_lines(record))))
    else:
        print_values(values_of(record), "yaml")


def endophyte_text(description: EndophyteDescription) -> Iterator[str]:
    """The lines of `vdc describe endophyte`."""
    view = description.view
    yield from _aligned(_endophyte_lines(view))
    yield ""
    if description.copies:
        yield "Copies:"
        yield from _indented(Table(_copy_columns()).render(description.copies, sys.stdout))
    else:
        yield "Copies: none"
    if description.pair is not None:
        yield ""
        yield "Pair:"
        pair = description.pair
        lines = [("Sync", pair.sync.value), ("Reason", pair.reason), ("Changed", pair.changed_at)]
        lines += [("Lineage", f"{pair.lineage}: a human has overridden the cluster")] if pair.lineage else []
        yield from _indented("\n".join(_aligned(lines)))
    if description.limits:
        yield ""
        yield "Limits:"
        yield from (f"  - {clean(limit)}" for limit in description.limits)
    yield ""
    if description.events:
        yield "Events:"
        recent = description.events[-_SHOWN_EVENTS:]
        yield from _indented(Table(EVENT.columns()).render(recent, sys.stdout))
    else:
        yield "Events: none"


def _endophyte_lines(view: EndophyteView) -> list[Line]:
    status, spec = view.status, view.spec
    computer, resources = spec.get("virtualComputer", {}), spec.get("resources", {})
    memory = resources.get("memory")
    figures = status.checkpoints
    allowed = ", ".join(
        prefix for port in spec.get("networks", []) for prefix in port.get("allowedAddresses", [])
    )
    lines: list[Line] = [
        ("Name", view.metadata.name),
        ("UID", view.metadata.uid),
        ("Created", view.metadata.createdAt),
        ("Phase", status.phase.value),
        ("Protection", status.protection.value),
        ("Unprotected since", status.unprotectedSince),
        ("Copying", _copying(view)),
        ("Sentence", status.sentence),
        *([("Moving to", status.moving_to)] if status.moving_to else []),
        *([("Last move", status.move_problem)] if status.move_problem else []),
        ("Epoch", status.epoch),
        (
            "Primary",
            status.primary and f"{status.primary.host} (pid {status.primary.pid}, {status.primary.qemu})",
        ),
        (
            "Secondary",
            status.secondary
            and f"{status.secondary.host} (pid {status.secondary.pid}, {status.secondary.qemu})",
        ),
        ("Spares", ", ".join(status.spares)),
        ("Addresses", ", ".join(status.addresses)),
        *([("Allowed beside", allowed)] if allowed else []),
        *([("Guest agent", _agent(status.agent))] if status.agent else []),
        ("MAC", status.mac),
        ("Image", spec.get("image")),
        ("Type", computer.get("type")),
        ("Memory sync", f"{computer.get('memorySync')}, {computer.get('dedicatedNodes')} hosts"),
        ("CPUs", resources.get("cpus")),
        ("Memory", format_size(memory) if isinstance(memory, int) else memory),
        ("Firmware", status.firmware and status.firmware.value),
        ("TPM", "yes" if spec.get("tpm") else "no"),
        *_program_lines(status.program),
    ]
    if figures.count:
        pauses = f"pause p50 {figures.pause_ms_p50:.1f} ms, p99 {figures.pause_ms_p99:.1f} ms"
        lines.append(("Checkpoints", f"{figures.count}, {pauses}, last {figures.last}"))
    lines += [(f"Annotation {key}", value) for key, value in sorted(view.metadata.annotations.items())]
    return lines


def _program_lines(program: ProgramStatus | None) -> list[Line]:
    if program is None:
        return []
    pid = f" (pid {program.pid} in the guest)" if program.pid else ""
    lines: list[Line] = [("Program", f"{program_word(program)}{pid}")]
    lines += [("Program since", program.started_at)] if program.started_at else []
    lines += [("Last exit code", program.exit_code)] if program.exit_code is not None else []
    return lines + ([("Why", program.reason)] if program.reason else [])


def _agent(agent: AgentStatus) -> str:
    """What the guest says of itself, which is not always what was allotted to it."""
    if not agent.is_answering:
        return "does not answer"
    said = [f"{one.name} {', '.join(map(str, one.addresses))}" for one in agent.interfaces if one.addresses]
    return f"answers; {'; '.join(said) or 'it says no addresses'}"


def _copying(view: EndophyteView) -> str | None:
    """How far the copy to the secondary is."""
    primary = view.status.primary
    if primary is None or primary.copying is None:
        return None
    copying = primary.copying
    share = 100 * copying.done_bytes // copying.total_bytes if copying.total_bytes else 100
    done, total = format_size(copying.done_bytes), format_size(copying.total_bytes)
    return f"{copying.what}, {done} of {total} ({share} %)"


def _copy_columns() -> list[Column[Observed]]:
    return [
        Column("HOST", lambda c: c.host),
        Column("ROLE", lambda c: c.role and c.role.value),
        Column("STAGE", lambda c: c.stage.value),
        Column("EPOCH", lambda c: c.epoch),
        Column("PID", lambda c: c.pid),
        Column("QEMU", lambda c: c.qemu),
        Column("SENTENCE", lambda c: c.error or c.sentence),
    ]


def _node_lines(node: NodeStatus) -> list[Line]:
    host = node.host
    lines: list[Line] = [
        ("Name", host.name),
        ("Alive", "yes" if node.alive else "no"),
        ("Schedulable", "yes" if host.schedulable else "no"),
        *_maintenance_lines(node),
        ("Leader", "yes" if node.is_leader else "no"),
        ("Role", host.role.value),
        ("Store", node.etcd),
        ("Endophytes", ", ".join(node.endophytes)),
        ("CPUs", host.cpus),
        ("Memory", f"{format_size(host.memory_bytes)}, reserved {format_size(node.memory_reserved_bytes)}"),
        ("CPU model", host.cpu_model),
        ("Accelerator", f"{host.accelerator.name} {host.accelerator.reason}"),
        ("QEMU", host.qemu.version),
        ("Lockstep", "yes" if host.qemu.lockstep else f"no: {host.qemu.reason}"),
        ("Management", host.management_address),
        ("Replication", host.replication_address),
        ("Overlay", host.overlay_address),
        ("API", host.api_url),
        ("Agent", f"{host.agent_version}, since {host.started_at}"),
        ("Inventory", host.inventory_source),
        ("Labels", ", ".join(f"{key}={value}" for key, value in sorted(host.labels.items()))),
    ]
    return lines + [("Warning", warning) for warning in host.warnings]


def _maintenance_lines(node: NodeStatus) -> list[Line]:
    wish = node.maintenance
    if wish is None:
        return []
    by, why = (f" by {wish.by}" if wish.by else "", f": {wish.reason}" if wish.reason else "")
    return [("Drained", f"{'' if node.is_empty else 'in progress, '}since {wish.since}{by}{why}")]


def _image_lines(entry: ImageView) -> list[Line]:
    image = entry.image
    lines: list[Line] = [
        ("Names", ", ".join(entry.names)),
        ("Digest", entry.digest),
        ("Created", entry.created_at),
        ("Source", entry.source),
        ("Size", format_size(entry.size_bytes)),
        ("Hosts", ", ".join(entry.hosts)),
        ("Used by", ", ".join(entry.used_by)),
        ("Kind", image.kind.value),
        ("Arch", image.arch),
        ("Minimum memory", format_size(image.min_memory_bytes)),
        ("Command line", image.cmdline),
    ]
    if image.disk:
        lines.append(("Disk", f"{image.disk_format}, {format_size(image.disk_virtual_bytes)} for the guest"))
        lines.append(("Firmware", image.firmware.value if image.firmware else None))
    if image.process:
        lines += _process_lines(image.process)
    parts = (("Disk blob", image.disk), ("Kernel blob", image.kernel), ("Initrd blob", image.initrd))
    return lines + [(name, f"{blob.digest} ({format_size(blob.size_bytes)})") for name, blob in parts if blob]


def _process_lines(process: ImageProcess) -> list[Line]:
    """The program of a container image, in the words of its configuration."""
    return [
        ("Entrypoint", shlex.join(process.entrypoint)),
        ("Command", shlex.join(process.cmd)),
        ("Environment", ", ".join(word.partition("=")[0] for word in process.env)),
        ("Working folder", process.working_dir),
        ("User", process.user),
        ("Stop signal", process.stop_signal),
        ("Ports", ", ".join(process.exposed_ports)),
        ("Volumes", ", ".join(process.volumes)),
    ]


def _aligned(lines: list[Line]) -> Iterator[str]:
    width = max(len(title) for title, _ in lines) + 3
    for title, value in lines:
        text = clean(str(value)) if value not in (None, "") else "-"
        yield f"{title + ':':{width}}{text}"


def _indented(text: str) -> Iterator[str]:
    return (f"  {line}" for line in text.splitlines())
