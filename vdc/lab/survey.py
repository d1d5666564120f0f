"""What there is of a lab right now, read from the kernel."""

from __future__ import annotations

from vdc.lab import faults, kernel, network
from vdc.lab.agents import recorded_agent
from vdc.lab.files import read_record
from vdc.lab.impairment import WireState
from vdc.lab.models import ClientStatus, HostState, HostStatus, LabRecord, LabState, LabStatus
from vdc.lab.plan import MAX_HOSTS, HostPlan, LabPlan, Underlay, make_plan
from vdc.lab.processes import is_running
from vdc.lab.settings import Settings
from vdc.model.errors import ConflictError, NotFoundError


def recorded_plan(name: str, settings: Settings) -> tuple[LabPlan, LabRecord]:
    """A lab that was made, as it was made; `NotFoundError` (`lab-not-found`)."""
    widest = widest_plan(name, settings)
    record = read_record(widest.record_file)
    if record is None:
        raise NotFoundError(f"there is no lab {name!r}", hint="run: vdc lab up", code="lab-not-found")
    return make_plan(name, record.hosts, settings.state_root, witness=record.witness), record


def widest_plan(name: str, settings: Settings) -> LabPlan:
    """Everything that a lab of this name could consist of, however many hosts it had."""
    return make_plan(name, MAX_HOSTS, settings.state_root, witness=True)


def owned_namespaces(name: str, settings: Settings) -> tuple[str, ...]:
    """The existing namespaces that carry this lab's marker."""
    plan = widest_plan(name, settings)
    return tuple(namespace for namespace in plan.namespaces if network.read_marker(namespace) == plan.marker)


def check_not_foreign(name: str, settings: Settings) -> None:
    """`ConflictError` (`lab-foreign`) where a namespace with one of our names is somebody else's."""
    plan = widest_plan(name, settings)
    for namespace in plan.namespaces:
        if kernel.is_namespace(namespace) and (marker := network.read_marker(namespace)) != plan.marker:
            owner = f"belongs to {marker!r}" if marker else "was not made by a lab"
            raise ConflictError(
                f"namespace {namespace} exists and {owner}",
                hint="choose another name for the lab, or remove that one with its own VDC_STATE_DIR",
                code="lab-foreign",
            )


def lab_status(name: str, settings: Settings) -> LabStatus:
    """The whole lab; `down` where nothing of it exists."""
    widest = widest_plan(name, settings)
    record = read_record(widest.record_file)
    if record is None:
        left = owned_namespaces(name, settings)
        problems = tuple(f"namespace {namespace} is left over" for namespace in left)
        return LabStatus(name=name, state=LabState.BROKEN if left else LabState.DOWN, problems=problems)
    plan = make_plan(name, record.hosts, settings.state_root, witness=record.witness)
    problems = network.missing_parts(plan)
    hosts = () if problems else tuple(host_status(plan, host) for host in plan.hosts)
    silent = [host.name for host in hosts if host.agent_pid is None and host.state is not HostState.OFF]
    problems += tuple(f"the agent of {name} does not run" for name in silent)
    if not record.is_complete:
        problems += ("it was not brought up to the end",)
    return LabStatus(
        name=name,
        state=LabState.BROKEN if problems else LabState.UP,
        hosts=hosts,
        client=ClientStatus(namespace=plan.client_namespace, address=str(plan.client_overlay)),
        context=plan.context,
        problems=problems,
    )


def host_status(plan: LabPlan, host: HostPlan) -> HostStatus:
    """One host, with its faults in words."""
    wires = faults.wires(plan, host)
    processes = faults.host_processes(host)
    agent = recorded_agent(host)
    etcd = sorted((process.start_time, process.pid) for process in processes if process.comm == "etcd")
    return HostStatus(
        name=host.name,
        role="witness" if host.is_witness else "host",
        namespace=host.namespace,
        state=_state(wires, faults.is_paused(processes)),
        agent_pid=agent.pid if agent and is_running(agent) else None,
        etcd_pid=etcd[0][1] if etcd else None,
        management_address=str(host.address(Underlay.MANAGEMENT)),
        replication_address=str(host.address(Underlay.REPLICATION)),
        overlay_address=str(host.overlay),
        api_socket=str(host.api_socket),
        faults=_in_words(wires, faults.is_paused(processes)),
    )


def _state(wires: dict[Underlay, WireState], is_paused: bool) -> HostState:
    if faults.is_off(wires):
        return HostState.OFF
    if is_paused:
        return HostState.PAUSED
    if any(wire.drops_in or wire.drops_out or not wire.is_up for wire in wires.values()):
        return HostState.PARTITIONED
    return HostState.SLOW if any(wire.is_slow for wire in wires.values()) else HostState.UP


def _in_words(wires: dict[Underlay, WireState], is_paused: bool) -> tuple[str, ...]:
    if faults.is_off(wires):
        return ("no power",)
    words = ["paused"] if is_paused else []
    for underlay, wire in wires.items():
        if not wire.is_up:
            words.append(f"{underlay}: link down")
        dropped = [name for name, drops in (("in", wire.drops_in), ("out", wire.drops_out)) if drops]
        if dropped:
            words.append(f"{underlay}: {' and '.join(dropped)} dropped")
        if wire.is_slow:
            words.append(f"{underlay}: slow")
    return tuple(words)
