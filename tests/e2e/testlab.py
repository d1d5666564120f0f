"""The lab as the specifications see it: hosts with faults, VMs with two copies, a client, a command line.

Everything that a user does goes through `cli`, the installed program in a process of its own. What is only
looked at (polls, the audit) asks the agents and the kernel directly, which costs these machines less.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vdc.api.client import ApiClient
from vdc.api.models import EndophyteDescription, EndophyteView
from vdc.api.transport import Deadlines
from vdc.control.allot import mac_for
from vdc.lab import api as lab_api
from vdc.lab import faults, kernel, survey
from vdc.lab.audit import audit
from vdc.lab.capture import Capture
from vdc.lab.models import HostState, LabStatus
from vdc.lab.network import netlink
from vdc.lab.plan import HostPlan, LabPlan, Underlay
from vdc.lab.processes import Process, kill_all, signal_all
from vdc.lab.sessions import Workload
from vdc.lab.settings import Settings
from vdc.lab.speakers import Verdict, judge, owners
from vdc.model.endophyte import CopyRole, CopyStage, Observed, Phase, RunState
from vdc.model.errors import VdcError

T = TypeVar("T")

POLL_S = 0.1
_PASSED_ON = ("VDC_STATE_DIR", "VDC_CACHE_DIR", "VDC_FAILPOINTS", "PYTHONPATH")
CLI_S = 150.0
QUIET_S = 30.0  # until a cluster that was left alone has tidied up
TAP_ALIAS = "vdc:port:"
ETCD_PORT = 7379
_ASK_ETCD = """
import sys, urllib.request
for url in sys.argv[1:]:
    try:
        asked = urllib.request.Request(url + "/v3/maintenance/status", b"{}")
        print(urllib.request.urlopen(asked, timeout=0.5).read().decode())
    except OSError:
        print("{}")
"""
_OFF = (None, CopyStage.ABSENT, CopyStage.DEAD, CopyStage.FAILED)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def error_line(self) -> str:
        """The one line that says what is wrong; fails where it is not one."""
        lines = [line for line in self.stderr.splitlines() if not line.startswith("hint: ")]
        assert len(lines) == 1, f"not one line: {self.stderr!r}"
        return lines[0]

    @property
    def hint(self) -> str:
        """What it advises."""
        found = (line for line in self.stderr.splitlines() if line.startswith("hint: "))
        return next(found, "").removeprefix("hint: ")


def wait_for(
    condition: Callable[[], T], deadline_s: float, describe: str | Callable[[], str], every_s: float = POLL_S
) -> T:
    """Ask until the answer is true and return it; fail with the description at the deadline."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        if time.monotonic() > end:
            what = describe if isinstance(describe, str) else describe()
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(every_s)
    return value


def run_cli(
    *arguments: str,
    environment: Mapping[str, str],
    stdin: str = "",
    wrapper: Sequence[str] = (),
    timeout_s: float = CLI_S,
) -> Done:
    """Run `vdc` to its end, without a terminal."""
    program = Path(sys.executable).parent / "vdc"
    done = subprocess.run(
        [*wrapper, str(program), *arguments],
        input=stdin, capture_output=True, text=True, timeout=timeout_s, env=dict(environment), check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


class Lab:
    """One lab. Use it as a context manager: whatever happens inside, it is gone afterwards."""

    def __init__(self, name: str, config: Path, hosts: int = 3, *, witness: bool = False) -> None:
        self.name, self.count, self.witness = name, hosts, witness
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(config.parent),
            "VDC_CONFIG": str(config),
            "NO_COLOR": "1",
            **{key: value for key, value in os.environ.items() if key in _PASSED_ON},
        }
        self.settings = Settings.from_environment()
        self._runner = asyncio.Runner()
        self._clients: dict[str, ApiClient] = {}
        self._cut_off: set[str] = set()
        self._names: dict[str, set[str]] = {}  # of VMs, by MAC: one after the other may have the same
        self.wire: Capture  # of the present test; the fixture `lab` begins and judges it

    def __enter__(self) -> Lab:
        try:
            self.down()
            self.up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the lab away; safe to repeat."""
        if self._runner is None:
            return
        for client in self._clients.values():
            self.run(client.close())
        self._clients.clear()
        try:
            self.down()
        finally:
            self._runner.close()
            self._runner = None  # type: ignore[assignment]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self._runner.run(work)

    # ---- the user's side

    def cli(
        self, *arguments: str, stdin: str = "", wrapper: Sequence[str] = (), timeout_s: float = CLI_S
    ) -> Done:
        """Run `vdc` against this lab."""
        return run_cli(
            *arguments, environment=self.environment, stdin=stdin, wrapper=wrapper, timeout_s=timeout_s
        )

    def ok(self, *arguments: str, stdin: str = "", timeout_s: float = CLI_S) -> str:
        """Run `vdc`, which has to succeed; returns what it printed."""
        done = self.cli(*arguments, stdin=stdin, timeout_s=timeout_s)
        assert done.code == 0, f"vdc {' '.join(arguments)}: exit code {done.code}\n{done.stdout}{done.stderr}"
        return done.stdout

    def up(self) -> LabStatus:
        """Bring it up by the command line, which writes the context."""
        third = ["--witness"] if self.witness else []
        self.ok("lab", "up", "--hosts", str(self.count), *third, "--name", self.name)
        return self.status()

    def down(self) -> None:
        """Take it away."""
        self.ok("lab", "down", "--name", self.name)

    def status(self) -> LabStatus:
        """What there is of it."""
        return self.run(lab_api.status(self.name))

    def fault(self, kind: str, host: str, **details: Any) -> None:
        """Do something to a host. One that is cut off from the others knows only what was: it is not asked."""
        if kind == "partition" and details.get("network") != "replication":
            self._cut_off.add(host)
        self.run(lab_api.fault(self.name, kind, host, **details))  # type: ignore[arg-type]

    def heal(self, host: str | None = None) -> None:
        """Undo all faults and wait until the cluster is whole again."""
        self._cut_off -= {host} if host else self._cut_off
        self.run(lab_api.fault(self.name, "heal", host))
        if host is None:
            self.run(lab_api.up(self.name))

    def wait_answering(self, address: str, deadline_s: float = 60.0) -> None:
        """Wait until the guest at an address has booted: its echo service answers a connection of its own."""
        program = (
            "import socket\n"
            f"with socket.create_connection(({address!r}, 7), 2) as s:\n"
            "    s.sendall(b'hello\\n'); assert s.recv(6) == b'hello\\n'"
        )
        argv = self.in_client([sys.executable, "-I", "-S", "-c", program])

        def answers() -> bool:
            return subprocess.run(argv, capture_output=True, timeout=20, check=False).returncode == 0

        wait_for(answers, deadline_s, f"{address} answers")

    def in_client(self, command: Sequence[str]) -> list[str]:
        """The command line that runs a command in the client's namespace."""
        return lab_api.exec_argv(self.name, "client", command)

    def workload(self, vm: VM, *services: str, **options: Any) -> Workload:
        """Sessions from the client to a VM."""
        return self.sessions_to(vm.address, *services, **options)

    def sessions_to(self, address: str, *services: str, **options: Any) -> Workload:
        """Sessions from the client to an address."""
        return Workload(self.in_client, address, services or ("echo", "diverging", "durable"), **options)

    # ---- hosts

    @property
    def plan(self) -> LabPlan:
        """Names, folders and addresses."""
        return survey.recorded_plan(self.name, self.settings)[0]

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts."""
        return tuple(host.name for host in self.plan.hosts)

    def leader(self) -> str:
        """The host whose agent leads, once there is one."""
        return wait_for(
            lambda: self.ask(lambda api: api.cluster()).leader or "", 20, "the cluster has a leader"
        )

    def hosts_up(self) -> tuple[str, ...]:
        """Hosts that have power and are not paused."""
        off = (HostState.OFF, HostState.PAUSED)
        return tuple(host.name for host in self.status().hosts if host.state not in off)

    def api(self, host: str) -> ApiClient:
        """A client of one host's agent."""
        if host not in self._clients:
            socket = self.plan.host(host).api_socket
            self._clients[host] = ApiClient([f"unix://{socket}"], deadlines=Deadlines(last_s=3.0))
        return self._clients[host]

    def ask(self, question: Callable[[ApiClient], Coroutine[Any, Any, T]], *, avoid: Sequence[str] = ()) -> T:
        """Ask the first agent that answers."""
        failure: Exception = AssertionError("no host is up")
        for host in self.hosts:
            if host in (*avoid, *self._cut_off) or not self.plan.host(host).api_socket.exists():
                continue
            try:
                return self.run(question(self.api(host)))
            except VdcError as error:
                failure = error
                if error.code != "agent-unreachable":
                    raise
        raise failure

    def qemus(self, host: str) -> tuple[Process, ...]:
        """The QEMU processes of a host."""
        found = faults.host_processes(self.plan.host(host))
        return tuple(process for process in found if process.comm.startswith("qemu-system"))

    def taps(self, host: str) -> list[Tap]:
        """The guests' ports on a host."""
        return _taps(self.plan.host(host))

    def agent(self, host: str) -> Process:
        """The process of a host's agent."""
        pid = next(one.agent_pid for one in self.status().hosts if one.name == host)
        found = [process for process in faults.host_processes(self.plan.host(host)) if process.pid == pid]
        assert found, f"the agent of {host} does not run"
        return found[0]

    def etcd(self, host: str) -> Process:
        """The process of a host's etcd member."""
        found = [one for one in faults.host_processes(self.plan.host(host)) if one.comm == "etcd"]
        assert len(found) == 1, f"{len(found)} etcd members on {host}"
        return found[0]

    def etcd_leader(self) -> str:
        """The host of the etcd member that most take for the leader; empty where it does not answer."""
        urls = [f"http://{host.address(Underlay.MANAGEMENT)}:{ETCD_PORT}" for host in self.plan.hosts]
        argv = self.in_client([sys.executable, "-I", "-S", "-c", _ASK_ETCD, *urls])
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        members = {
            answer.get("header", {}).get("member_id"): host
            for answer, host in zip(answers, self.hosts, strict=True)
        }
        votes = Counter(answer["leader"] for answer in answers if answer.get("leader", "0") != "0")
        return members.get(votes.most_common(1)[0][0], "") if votes else ""

    def agent_log(self, host: str, last_bytes: int = 24_000) -> str:
        """The end of an agent's log."""
        try:
            return self.plan.host(host).agent_log.read_bytes()[-last_bytes:].decode(errors="replace")
        except (OSError, VdcError) as error:
            return str(error)

    # ---- VMs

    def create(self, name: str, *options: str, timeout_s: float = 90.0) -> VM:
        """Create a VM and wait until it is what was asked for."""
        self.ok("create", name, "--wait", "--timeout", f"{timeout_s:g}", *options)
        for address in self.view(name).status.addresses:
            self._names.setdefault(mac_for(self.plan.network.name, address), set()).add(name)
        return VM(self, name)

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The cluster's events, oldest first."""
        found = self.ask(lambda api: api.list_events(name, limit=2000))
        return [json.loads(event.to_json()) for event in found.items]

    def nodes(self) -> list[dict[str, Any]]:
        """All hosts, as `vdc get nodes` has them."""
        found = self.ask(lambda api: api.list_nodes())
        return [json.loads(node.to_json()) for node in found.items]

    def vm_names(self) -> tuple[str, ...]:
        """All VMs that the cluster knows."""
        listed = self.ask(lambda api: api.list_endophytes())
        return tuple(view.metadata.name for view in listed.items)

    def remove_all_vms(self) -> None:
        """Delete every VM, by force."""
        names = self.vm_names()
        for name in names:
            self.ask(lambda api, name=name: api.delete_endophyte(name))  # type: ignore[misc]
        wait_for(lambda: not self.vm_names(), 90.0, lambda: f"deleted: {', '.join(self.vm_names())}")

    def resume_all(self) -> None:
        """No host is drained any more."""
        for node in self.ask(lambda api: api.list_nodes()).items:
            if node.maintenance is not None:
                self.ask(lambda api, name=node.host.name: api.resume_node(name))  # type: ignore[misc]

    # ---- the wire

    def capture(self) -> Capture:
        """Watch what guests send over the overlay, until the end of the `with` block."""
        return Capture(self.plan)

    def verdicts(self, capture: Capture, since: str) -> list[Verdict]:
        """What a capture that began at `since` (as in events) shows: for each guest, who spoke in which order."""
        events = self.ask(lambda api: api.list_events(limit=2000)).items
        hosts = {str(host.address(Underlay.MANAGEMENT)): host.name for host in self.plan.hosts}
        frames = capture.frames
        found = []
        for mac in dict.fromkeys(frame.mac for frame in frames):
            mine = [one for one in events if one.name in self._names.get(mac, ()) and one.at >= since]
            found.append(judge(mac, frames, hosts, owners(mine)))
        return found

    # ---- the audit

    def audit(self) -> list[str]:
        """What is left over, or what the records, the hosts and the kernel say differently."""
        found = list(audit(self.name, settings=self.settings))
        taps: dict[str, list[Tap]] = {host: _taps(self.plan.host(host)) for host in self.hosts_up()}
        qemus = {host: {_name_of(process): process for process in self.qemus(host)} for host in self.hosts}
        names = self.vm_names()
        for name in names:
            description = self.ask(lambda api, name=name: api.describe_endophyte(name))  # type: ignore[misc]
            found += _audit_vm(description, qemus, taps)
        uids = {self.view(name).metadata.uid for name in names}
        for host in self.hosts_up():
            found += [
                f"QEMU of {name} runs on {host} and is no VM's" for name in qemus[host].keys() - set(names)
            ]
            found += [f"tap {tap.name} on {host} is no VM's" for tap in taps[host] if tap.uid not in uids]
            folder = self.plan.host(host).state_dir / "vms"
            present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
            found += [f"files of {name} are left on {host}" for name in sorted(present - set(names))]
        return found

    def view(self, name: str, host: str | None = None) -> EndophyteView:
        """One VM, as `host` sees it."""
        if host is not None:
            return self.run(self.api(host).get_endophyte(name))
        return self.ask(lambda api: api.get_endophyte(name))

    def assert_clean(self, when: str, *, clients_may_run: bool = False) -> None:
        """Fail unless the audit finds nothing, once what was under way has ended."""
        client = f"still runs in {self.plan.client_namespace}"
        last: list[str] = []

        def is_clean() -> bool:
            nonlocal last
            try:
                last = [one for one in self.audit() if not (clients_may_run and one.endswith(client))]
            except VdcError as error:
                last = [str(error)]
            return not last

        wait_for(is_clean, QUIET_S, lambda: f"a clean lab {when}: {'; '.join(last)}", every_s=0.5)


@dataclass(frozen=True)
class Tap:
    """A guest's port on a host."""

    name: str
    uid: str
    is_live: bool  # plugged into the overlay's bridge


def _taps(host: HostPlan) -> list[Tap]:
    def read() -> list[Tap]:
        with netlink() as ip:
            found = []
            for link in ip.get_links():
                alias = link.get_attr("IFLA_IFALIAS") or ""
                if alias.startswith(TAP_ALIAS):
                    uid = alias.removeprefix(TAP_ALIAS).split(":")[1]
                    found.append(
                        Tap(link.get_attr("IFLA_IFNAME"), uid, link.get_attr("IFLA_MASTER") is not None)
                    )
            return found

    return kernel.in_namespace(host.namespace, read)


def _name_of(process: Process) -> str:
    words = process.command
    for word, value in itertools.pairwise(words):
        if word == "-name":
            return value.split(",")[0].removeprefix("guest=")
    return "?"


def _audit_vm(
    description: EndophyteDescription,
    qemus: Mapping[str, Mapping[str, Process]],
    taps: Mapping[str, Sequence[Tap]],
) -> Iterator[str]:
    """One owner: the record, what each host says of its copy, the processes and the bridges agree."""
    view, pair = description.view, description.pair
    name, uid = view.metadata.name, view.metadata.uid
    if pair is None:
        if view.status.phase not in (Phase.PENDING, Phase.STOPPED):
            yield f"{name} is {view.status.phase} and nobody's"
        return
    for copy in description.copies:
        if copy.host not in taps:
            continue  # no power: it says nothing any more
        process = qemus[copy.host].get(name)
        pid = process.pid if process else None
        if copy.pid != pid:
            yield f"{copy.host} says that {name} is process {copy.pid}, and runs {pid}"
        if copy.role is not None and copy.stage not in _OFF:
            part = CopyRole.PRIMARY if copy.host == pair.primary else CopyRole.SECONDARY
            if copy.host not in pair.hosts or copy.role is not part or copy.epoch != pair.epoch:
                yield f"{copy.host}: {copy.role} of {name}, epoch {copy.epoch}; the record: {pair.to_json()}"
    for host in sorted({host for host, present in qemus.items() if name in present} - set(pair.hosts)):
        yield f"{name} runs on {host}, too; the record says {pair.hosts}"
    for host, found in taps.items():
        if host != pair.primary and any(tap.is_live for tap in found if tap.uid == uid):
            yield f"{name} is on the network at {host}; its primary is {pair.primary}"


class VM:
    """One VM of the lab."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name
        self.address = self.view().status.addresses[0]

    def view(self, host: str | None = None) -> EndophyteView:
        """As `host` (or the first that answers) sees it."""
        return self.lab.view(self.name, host)

    @property
    def primary(self) -> str:
        """The primary's host."""
        copy = self.view().status.primary
        assert copy is not None
        return copy.host

    @property
    def secondary(self) -> str:
        """The secondary's host."""
        copy = self.view().status.secondary
        assert copy is not None, f"{self.name} has no secondary"
        return copy.host

    @property
    def epoch(self) -> int:
        """The epoch of the arbitration record."""
        return self.view().status.epoch

    @property
    def spare(self) -> str:
        """A host without a copy."""
        return next(host for host in self.lab.hosts if host not in (self.primary, self.secondary))

    def qemu(self, host: str) -> Process:
        """Its QEMU on a host."""
        found = [process for process in self.lab.qemus(host) if _name_of(process) == self.name]
        assert len(found) == 1, f"{len(found)} QEMUs of {self.name} on {host}"
        return found[0]

    def copy_on(self, host: str) -> Observed:
        """What a host last said of its copy."""
        described = self.lab.ask(lambda api: api.describe_endophyte(self.name))
        return next(copy for copy in described.copies if copy.host == host)

    def sentence_on(self, host: str) -> str:
        """What a host itself says of its copy, though nobody else may hear it."""
        words = [line for line in self.lab.agent_log(host).splitlines() if f"endophyte={self.name}" in line]
        return next((line for line in reversed(words) if "rule=" in line), "")

    def runs_on(self, host: str) -> bool:
        """Whether a QEMU of it runs on a host."""
        return any(_name_of(process) == self.name for process in self.lab.qemus(host))

    def is_on_network(self, host: str) -> bool:
        """Whether a port of it is plugged into the overlay on a host."""
        uid = self.view().metadata.uid
        return any(tap.is_live for tap in _taps(self.lab.plan.host(host)) if tap.uid == uid)

    def kill(self, host: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to its QEMU on a host."""
        signal_all([self.qemu(host)], number)

    def wait(self, what: str, condition: Callable[[EndophyteView], bool], deadline_s: float) -> EndophyteView:
        """Wait until its view is as described."""
        last: list[EndophyteView] = []

        def holds() -> bool:
            try:
                last[:] = [self.view()]
            except VdcError:
                return False  # an agent that was just lost; the deadline is the judge
            return condition(last[0])

        wait_for(
            holds, deadline_s, lambda: f"{self.name} {what}; it is {last[0].status if last else 'unknown'}"
        )
        return last[0]

    def wait_lockstep(self, deadline_s: float = 60.0) -> EndophyteView:
        """Wait until it is protected."""
        return self.wait("in lockstep", lambda view: view.status.protection.value == "lockstep", deadline_s)

    def wait_primary(self, host: str, deadline_s: float = 20.0) -> EndophyteView:
        """Wait until the record names this host the primary and the guest runs there."""

        def is_there(view: EndophyteView) -> bool:
            copy = view.status.primary
            return copy is not None and copy.host == host and view.status.phase is Phase.RUNNING

        return self.wait(f"running on {host}", is_there, deadline_s)

    def shell(self, command: str) -> str:
        """Run a command in the guest by its serial console; returns what it printed."""
        printed = self.lab.ok("console", self.name, stdin=f"\necho be''gin; {command}; echo e''nd\n")
        assert "begin" in printed and "end" in printed, printed
        return printed.rpartition("begin")[2].partition("end")[0].strip()

    def ask_run(self, state: RunState) -> None:
        """Ask for a run state, and do not wait for it."""
        self.lab.ask(lambda api: api.run_endophyte(self.name, state))

    def ask_protection(self, *, enabled: bool) -> None:
        """Ask for protection or against it, and do not wait for it."""
        self.lab.ask(lambda api: api.protect_endophyte(self.name, enabled=enabled))

    def event_codes(self) -> list[str]:
        """The codes of its events, oldest first."""
        return [event["code"] for event in self.lab.events(self.name)]


def rounds(usual: int, full: int) -> int:
    """How often a test repeats itself: `full` with VDC_TEST_FULL=1 in the environment."""
    return full if os.environ.get("VDC_TEST_FULL") else usual


def kill_agent(lab: Lab, host: str) -> int:
    """SIGKILL a host's agent; returns the pid that it had."""
    agent = lab.agent(host)
    killed = kill_all(
        lambda: [one for one in faults.host_processes(lab.plan.host(host)) if one.pid == agent.pid], 10.0
    )
    assert killed == 1
    return agent.pid


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Seconds since the block began."""
    began = time.monotonic()
    yield lambda: time.monotonic() - began
