"""Real guests in lockstep: their processes are nobody, have nothing, and stay within their groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from testlab import VM, Lab, wait_for

from vdc.lab import cgroups
from vdc.lab.processes import Process

_NONE = "0000000000000000"
_OF_DHCP = f"{1 << 10:016x}"  # NET_BIND_SERVICE


def status_of(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def uid_of(pid: int, capabilities: str = _NONE) -> int:
    """Whose it is, after a look at what it may do."""
    status = status_of(pid)
    assert status["Uid"].split() == status["Gid"].split(), "one user, one group, the same number"
    assert len(set(status["Uid"].split())) == 1
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert status[name] == capabilities, (status["Name"], name)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), status["Name"]
    assert status["NSpid"].split()[-1] == "1", "it sees no process but its own"
    return int(status["Uid"].split()[0])


def groups_of(lab: Lab, host: str, pid: int) -> list[Path]:
    """The control groups of this lab's host in which the process is."""
    mine = [group for base in cgroups.folders(lab.plan.host(host)) for group in base.glob("vm-*")]
    return [group for group in mine if str(pid) in (group / "cgroup.procs").read_text().split()]


def test_two_guests_and_the_helpers_are_six_users(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    web, other = protected_vm("web"), lab.create("other", "--no-protect")
    lab.wait_answering(other.address)
    users: dict[str, int] = {}
    for vm, host in ((web, web.primary), (web, web.secondary), (other, other.primary)):
        pid = vm.qemu(host).pid
        folder = lab.plan.host(host).state_dir / "vms" / vm.name
        users[f"{vm.name} on {host}"] = uid = uid_of(pid)
        found = [(folder / "guest").stat(), *(path.lstat() for path in (folder / "guest").rglob("*"))]
        assert {one.st_uid for one in found} == {uid}
        assert not any(one.st_mode & 0o077 for one in found), "nobody else may open it"
        agents = [path for path in folder.rglob("*") if "guest" not in path.relative_to(folder).parts]
        assert {path.stat().st_uid for path in agents} == {0}, "what the agent believes is not the guest's"
        found_groups = groups_of(lab, host, pid)
        assert {group.name for group in found_groups} <= {f"vm-{vm.name}"}
        assert bool(found_groups) == bool(lab_groups(lab, host))
    for host in lab.hosts:
        for name, capabilities in (("etcd", _NONE), ("dnsmasq", _OF_DHCP)):
            (process,) = [one for one in processes(lab, host) if one.comm == name]
            users[f"{name} on {host}"] = uid_of(process.pid, capabilities)
    assert len(set(users.values())) == len(users), users
    assert 0 not in users.values()

    before = web.epoch
    lab.ok("promote", "replica", "web")
    assert web.wait_lockstep(30).status.epoch > before, "and lockstep works"
    host = other.primary
    lab.delete("other")
    wait_for(
        lambda: not [one for one in lab_groups(lab, host) if one.name == "vm-other"], 10, "its group goes"
    )


def lab_groups(lab: Lab, host: str) -> list[Path]:
    """Every guest's group on a host."""
    return [group for base in cgroups.folders(lab.plan.host(host)) for group in base.glob("vm-*")]


def processes(lab: Lab, host: str) -> tuple[Process, ...]:
    """Everything that runs on a host."""
    from vdc.lab.faults import host_processes

    return host_processes(lab.plan.host(host))
