"""The lab as the specifications see it: hosts with faults, VMs with two copies, a client, a command line.

Everything that a user does goes through `cli`, the installed program in a process of its own. What is only
looked at (polls, the audit) asks the agents and the kernel directly, which costs these machines less.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from labaudit import audit_of
from labcli import CLI_S, Done, run_cli, type_at_console
from labcredentials import etcd_url, watcher_folder
from labkernel import Tap, taps_of
from labvm import VM
from pacing import PATIENCE, wait_for

from vdc.api.client import ApiClient
from vdc.api.models import EndophyteView
from vdc.api.transport import Deadlines
from vdc.control.allot import mac_for
from vdc.lab import api as lab_api
from vdc.lab import faults, survey
from vdc.lab.capture import Capture
from vdc.lab.models import HostState, LabStatus
from vdc.lab.plan import LabPlan, Underlay
from vdc.lab.processes import Process, kill_all
from vdc.lab.sessions import Workload
from vdc.lab.settings import Settings
from vdc.lab.speakers import Verdict, judge, owners
from vdc.model.errors import NotFoundError, VdcError

T = TypeVar("T")

_PASSED_ON = ("VDC_STATE_DIR", "VDC_CACHE_DIR", "VDC_FAILPOINTS", "PYTHONPATH")
BACK_S = 5.0  # until an agent that died serves again
QUIET_S = 30.0  # until a cluster that was left alone has tidied up
_ASK_ETCD = """
import ssl, sys, urllib.request
folder = sys.argv[1]
context = ssl.create_default_context(cafile=folder + "/ca.crt")
context.load_cert_chain(folder + "/host.crt", folder + "/host.key")
for url in sys.argv[2:]:
    try:
        asked = urllib.request.Request(url + "/v3/maintenance/status", b"{}")
        print(urllib.request.urlopen(asked, timeout=0.5, context=context).read().decode())
    except OSError:
        print("{}")
"""


class PatientWorkload(Workload):
    """Its deadlines are those of `pacing.wait_for`."""

    def wait_progress(self, more: int, deadline_s: float) -> None:
        super().wait_progress(more, deadline_s * PATIENCE)


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

    def type_at_console(self, name: str, keys: str, until: str) -> str:
        """Type at a guest's console until a line begins with `until`; returns what it showed."""
        return type_at_console(name, keys, until, environment=self.environment)

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
        return PatientWorkload(
            self.in_client, address, services or ("echo", "diverging", "durable"), **options
        )

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

    def ask(
        self,
        question: Callable[[ApiClient], Coroutine[Any, Any, T]],
        *,
        of: str | None = None,
        avoid: Sequence[str] = (),
    ) -> T:
        """Ask the agent of one host, or the first that answers; where it has just died, wait until it is back.

        What a dying agent did of it is unknown, so `question` has to be one that may be asked twice.
        """
        end = time.monotonic() + BACK_S * PATIENCE
        while True:
            try:
                return self._ask_once(question, avoid) if of is None else self.run(question(self.api(of)))
            except VdcError as error:
                if error.code not in ("agent-unreachable", "outcome-unknown") or time.monotonic() > end:
                    raise
            time.sleep(0.5)

    def _ask_once(self, question: Callable[[ApiClient], Coroutine[Any, Any, T]], avoid: Sequence[str]) -> T:
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

    def delete(self, name: str) -> None:
        """Ask for a VM's deletion, and do not wait for it."""
        with suppress(NotFoundError):  # asked twice, and gone by the second time
            self.ask(lambda api: api.delete_endophyte(name))

    def qemus(self, host: str) -> tuple[Process, ...]:
        """The QEMU processes of a host."""
        found = faults.host_processes(self.plan.host(host))
        return tuple(process for process in found if process.comm.startswith("qemu-system"))

    def taps(self, host: str) -> list[Tap]:
        """The guests' ports on a host."""
        return taps_of(self.plan.host(host))

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
        urls, folder = [etcd_url(self, host) for host in self.hosts], str(watcher_folder(self))
        argv = self.in_client([sys.executable, "-I", "-S", "-c", _ASK_ETCD, folder, *urls])
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

    def watch(self, vm: VM) -> None:
        """Know what a VM with MACs of its own says on the wire."""
        for nic in vm.view().status.nics:
            self._names.setdefault(nic.mac, set()).add(vm.name)

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
            self.delete(name)
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
        return audit_of(self)

    def view(self, name: str, host: str | None = None) -> EndophyteView:
        """One VM, as `host` sees it."""
        return self.ask(lambda api: api.get_endophyte(name), of=host)

    def alive(self, asked: str) -> set[str]:
        """The hosts that count as alive, as the agent of `asked` sees it."""
        return {
            node.host.name for node in self.ask(lambda api: api.list_nodes(), of=asked).items if node.alive
        }

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


def kill_agent(lab: Lab, host: str) -> int:
    """SIGKILL a host's agent; returns the pid that it had."""
    agent = lab.agent(host)
    killed = kill_all(
        lambda: [one for one in faults.host_processes(lab.plan.host(host)) if one.pid == agent.pid], 10.0
    )
    assert killed == 1
    return agent.pid
