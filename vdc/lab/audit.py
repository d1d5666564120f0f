"""Is anything left over, or wrong? Sentences for the tests; an empty answer means that all is well.

`audit` judges one lab, up or down. `snapshot` and `compare` judge the machine around it: what the root
namespace, the mount table and the processes looked like before, and what is new since.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from vdc.lab import cgroups, faults, kernel, survey
from vdc.lab.agents import recorded_agent
from vdc.lab.files import mounts_below
from vdc.lab.models import HostState, LabState
from vdc.lab.network import link_names, netlink
from vdc.lab.plan import HostPlan, LabPlan, Underlay, lab_of_namespace
from vdc.lab.processes import Process, all_processes, processes_of
from vdc.lab.settings import Settings, check_root

TOKEN = b"VDC_PROCESS_TOKEN="  # the agent marks what it starts, and writes the mark into a pidfile
OWNER = b"VDC_PROCESS_OWNER="  # and whose it is: the agent's state folder
_PROGRAMS = ("qemu-", "etcd", "dnsmasq", "hostagent", "swtpm", "bwrap")
_LARGEST_PIDFILE = 8192


def audit(name: str, *, settings: Settings | None = None) -> tuple[str, ...]:
    """What is left over or wrong about a lab; needs root."""
    check_root()
    settings = settings or Settings.from_environment()
    status = survey.lab_status(name, settings)
    if status.state is LabState.DOWN:
        return tuple(_left_behind(name, settings))
    found = list(status.problems)
    if status.hosts:
        plan, _ = survey.recorded_plan(name, settings)
        for host, seen in zip(plan.hosts, status.hosts, strict=True):
            found += _about_host(host, is_off=seen.state is HostState.OFF)
        found += _about_passive(plan)
    return tuple(found)


def _nameless(folder: Path) -> list[str]:
    """What an agent of the lab once started and now runs in a network namespace without a name.

    A sandbox without a network has such a namespace rightly: its parent, outside of it, explains it.
    """
    named = {kernel.namespace_inode(path.name) for path in kernel.NETNS_FOLDER.glob("*")}
    own = Path("/proc/self/ns/net").stat().st_ino
    everything = {process.pid: process for process in all_processes()}

    def is_explained(process: Process) -> bool:
        parent = everything.get(process.parent)
        return parent is not None and parent.pid != 1 and parent.netns != process.netns

    lost = [one for one in everything.values() if one.netns not in named | {own} and not is_explained(one)]
    owned = [one for one in lost if Path(os.fsdecode(_mark(one, OWNER))).is_relative_to(folder)]
    return [f"{_of(one)} runs in a network namespace without a name" for one in owned]


def _left_behind(name: str, settings: Settings) -> list[str]:
    plan = survey.widest_plan(name, settings)
    folder = str(plan.folder)
    found = [
        f"namespace {path.name} is left over"
        for path in sorted(kernel.NETNS_FOLDER.glob("vdc-*"))
        if lab_of_namespace(path.name) == name
    ]
    groups = (group for host in plan.hosts for group in cgroups.folders(host))
    found += [f"control group {group} is left over" for group in groups if group.exists()]
    found += [f"{path} is still mounted" for path in mounts_below(plan.folder)]
    found += _nameless(plan.folder)
    if plan.folder.exists():
        found.append(f"{folder} is left over")
    found += [f"{_of(process)} still runs" for process in all_processes() if _refers_to(process, folder)]
    return found


def _about_host(host: HostPlan, *, is_off: bool) -> list[str]:
    processes = faults.host_processes(host)
    if is_off:
        return [f"{_of(process)} runs on {host.name}, which has no power" for process in processes]
    found = [f"{_of(process)} on {host.name} belongs to nobody" for process in _orphans(host, processes)]
    daemons = [process for process in processes if process.comm == "etcd"]
    if len(daemons) > 1:
        found.append(f"{host.name} runs {len(daemons)} etcd processes")
    for tap in kernel.in_namespace(host.namespace, _unattached_taps):
        found.append(f"tap {tap} on {host.name} has no owner")
    return found


def _about_passive(plan: LabPlan) -> list[str]:
    found = []
    switches = [plan.switch(underlay) for underlay in Underlay]
    for namespace in (plan.client_namespace, *switches):
        inode = kernel.namespace_inode(namespace)
        found += [
            f"{_of(process)} still runs in {namespace}" for process in processes_of({inode} if inode else ())
        ]
    known = {host.name for host in plan.hosts} | {"client", "br0", "lo"}
    for namespace in switches:
        strange = kernel.in_namespace(namespace, link_names) - known
        found += [f"interface {link} in {namespace} is left over" for link in sorted(strange)]
    return found


def _orphans(host: HostPlan, processes: tuple[Process, ...]) -> list[Process]:
    """Neither the agent, nor below it, nor named by a pidfile; or named by a pidfile that is gone."""
    agent = recorded_agent(host)
    below = {process.pid for process in processes_of((), {agent.pid} if agent else ())}
    pidfiles = b"\n".join(_pidfiles(host.state_dir))

    def is_known(process: Process) -> bool:
        token = _mark(process, TOKEN)
        return token in pidfiles if token else process.pid in below

    return [process for process in processes if not is_known(process)]


def _pidfiles(folder: Path) -> list[bytes]:
    found = []
    for path in folder.rglob("*.pid"):
        try:
            found.append(path.read_bytes()[:_LARGEST_PIDFILE])
        except OSError:
            continue
    return found


def _mark(process: Process, variable: bytes) -> bytes:
    try:
        words = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return b""
    return next((word.removeprefix(variable) for word in words if word.startswith(variable)), b"")


def _unattached_taps() -> list[str]:
    with netlink() as ip:
        links = ip.get_links()
        kinds = [(link, link.get_attr("IFLA_LINKINFO")) for link in links]
        return [
            link.get_attr("IFLA_IFNAME")
            for link, info in kinds
            if info is not None
            and info.get_attr("IFLA_INFO_KIND") == "tun"
            and not link.get_attr("IFLA_CARRIER")
        ]


def _refers_to(process: Process, folder: str) -> bool:
    if process.pid == os.getpid():
        return False
    links = []
    for name in ("cwd", "root", "exe"):
        try:
            links.append(str(Path(f"/proc/{process.pid}/{name}").readlink()))
        except OSError:
            continue
    return any(word.startswith(folder + "/") or word == folder for word in (*process.command, *links))


def _of(process: Process) -> str:
    return f"process {process.comm} ({process.pid})"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine outside the labs."""

    interfaces: frozenset[str]  # of the namespace that this program runs in
    namespaces: frozenset[str]
    mounts: frozenset[str]
    groups: frozenset[str]  # control groups that a lab would make
    processes: frozenset[str]  # programs of our kind, with pid and start time


def snapshot(mentioning: Path | None = None) -> Snapshot:
    """Look at the machine; of the processes only those that mention this folder, where one is given."""
    processes = (
        process
        for process in all_processes()
        if process.comm.startswith(_PROGRAMS) or "hostagent" in " ".join(process.command[:3])
    )
    chosen = (one for one in processes if mentioning is None or _refers_to(one, str(mentioning)))
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return Snapshot(
        interfaces=kernel.in_fresh_thread(link_names),
        namespaces=frozenset(path.name for path in kernel.NETNS_FOLDER.glob("*")),
        mounts=frozenset(line.split()[4] for line in mounts),
        groups=frozenset(cgroups.all_names()),
        processes=frozenset(f"{one.comm} ({one.pid}, started at {one.start_time})" for one in chosen),
    )


def compare(
    before: Snapshot, after: Snapshot, ignore: Callable[[str], bool] = lambda _: False
) -> tuple[str, ...]:
    """What is there now and was not, and what was there and is gone, in sentences."""
    found = []
    for field in fields(Snapshot):
        was, now = getattr(before, field.name), getattr(after, field.name)
        what = field.name.removesuffix("s").replace("processe", "process")
        found += [f"{what} {name} is new" for name in sorted(now - was) if not ignore(name)]
        if field.name != "processes":
            found += [f"{what} {name} is gone" for name in sorted(was - now) if not ignore(name)]
    return tuple(found)
