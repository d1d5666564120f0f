"""Making a lab and taking it away. Synchronous steps; `vdc.lab.api` puts them in order and holds the lock."""

from __future__ import annotations

from collections.abc import Callable

from vdc.lab import cgroups, credentials, kernel, network
from vdc.lab.agents import recorded_agent
from vdc.lab.config import agent_config
from vdc.lab.context import withdraw_context
from vdc.lab.files import empty_folder, read_record, write_text
from vdc.lab.models import LabRecord
from vdc.lab.plan import LabPlan
from vdc.lab.processes import Process, check_outside, is_running, kill_all, processes_of
from vdc.lab.settings import Settings
from vdc.lab.survey import owned_namespaces, widest_plan

Progress = Callable[[str], None]


def lay_out(plan: LabPlan, record: LabRecord, settings: Settings) -> LabRecord:
    """Write the record, then make folders, configuration files, credentials, namespaces and wires."""
    if not kernel.NETNS_FOLDER.is_dir():
        record = record.with_(made_netns_folder=True)
        kernel.NETNS_FOLDER.mkdir(parents=True)
    save_record(plan, record)
    runtime = settings.runtime()
    for host in plan.hosts:
        host.state_dir.mkdir(mode=0o750)
        host.config_file.write_text(
            agent_config(
                plan, host, runtime=runtime, cache_dir=settings.cache_root, memory_bytes=record.memory_bytes
            )
        )
    credentials.issue(plan)
    network.build(plan)
    return record


def save_record(plan: LabPlan, record: LabRecord) -> None:
    """Replace `lab.json`."""
    write_text(plan.record_file, record.to_json() + "\n")


def anything_left(name: str, settings: Settings) -> bool:
    """Whether there is anything that `tear_down` would remove."""
    plan = widest_plan(name, settings)
    return plan.folder.exists() or bool(owned_namespaces(name, settings))


def tear_down(name: str, settings: Settings) -> int:
    """Remove whatever exists of a lab, with or without a record; returns how many processes were ended.

    The empty state folder stays: it is the lock that the caller holds, and goes when the lock is given back.
    """
    plan = widest_plan(name, settings)
    record = read_record(plan.record_file)
    owned = owned_namespaces(name, settings)
    inodes = {inode for namespace in owned if (inode := kernel.namespace_inode(namespace))}
    check_outside(inodes)
    ours = [host for host in plan.hosts if host.namespace in owned or not kernel.is_namespace(host.namespace)]

    def find() -> tuple[Process, ...]:
        grouped = (pid for host in ours for pid in cgroups.pids(host))
        return processes_of(inodes, {*grouped, *_recorded(plan)})

    count = len(find())
    for host in ours:
        cgroups.kill(host)
    kill_all(find, settings.kill_deadline_s)
    for namespace in (*owned, *_half_made(plan, record)):
        kernel.remove_namespace(namespace)
    for host in ours:
        cgroups.remove(host, settings.kill_deadline_s)
    if record is not None:
        withdraw_context(plan, record)
        if record.made_netns_folder:
            kernel.remove_folder_if_empty()
    empty_folder(plan.folder)
    return count


def _recorded(plan: LabPlan) -> frozenset[int]:
    """Agents that were started and may have left their namespace, or whose namespace is gone."""
    agents = (recorded_agent(host) for host in plan.hosts)
    return frozenset(agent.pid for agent in agents if agent and is_running(agent))


def _half_made(plan: LabPlan, record: LabRecord | None) -> tuple[str, ...]:
    """Names without a namespace behind them: a crash between the file and the mount."""
    if record is None:
        return ()
    names = (name for name in plan.namespaces if kernel.namespace_path(name).exists())
    return tuple(name for name in names if not kernel.is_namespace(name))
