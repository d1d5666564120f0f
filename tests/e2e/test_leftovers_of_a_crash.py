"""What a crash leaves on a host (taps, processes, sockets, folders) is swept when its agent starts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from labstore import note_deleted
from testlab import VM, Lab, kill_agent, wait_for

from hostagent.drivers.net.names import PortTag
from hostagent.drivers.process.pidfile import (
    OWNER_VARIABLE,
    TOKEN_VARIABLE,
    kill_carriers,
    new_record,
    write_pidfile,
)
from hostagent.supervisor.state import CopyState
from vdc.lab import kernel
from vdc.lab.agents import launch_argv
from vdc.lab.network import netlink
from vdc.lab.processes import read_process
from vdc.model.endophyte import CopyRole, CopyStage

TAP_UID = "00000000-0000-4000-8000-0000000000aa"  # of a VM of which nothing else is left
MAC = "52:54:00:00:00:01"
UID = "00000000-0000-4000-8000-00000000dead"
SANDBOX = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]


@pytest.mark.parametrize("whose", ["spare", "secondary"])
def test_all_of_it_goes_and_nothing_else(lab: Lab, protected_vm: Callable[..., VM], whose: str) -> None:
    vm = protected_vm("web")
    host = vm.spare if whose == "spare" else vm.secondary
    pids = {name: vm.qemu(name).pid for name in (vm.primary, vm.secondary)}
    before = vm.epoch
    plan = lab.plan.host(host)
    kill_agent(lab, host)
    lost = _Leftovers(plan.namespace, plan.state_dir)
    try:
        lost.make()
        note_deleted(lab, UID)  # else it might be a VM of which the cluster has lost the record
        lab.heal(host)
        wait_for(lambda: not lost.still_there(), 15, lambda: f"swept; left: {lost.still_there()}")
    finally:
        lost.close()
    assert {name: vm.qemu(name).pid for name in (vm.primary, vm.secondary)} == pids
    assert vm.wait_lockstep(20).status.epoch == before
    assert "ended a process that an earlier agent left" in lab.agent_log(host)


class _Leftovers:
    """Real ones, as an agent leaves them that dies at the wrong moment."""

    def __init__(self, namespace: str, state_dir: Path) -> None:
        self._namespace, self._state_dir = namespace, state_dir
        self._vms = state_dir / "vms"
        self._tokens: list[str] = []
        self._programs: list[subprocess.Popen[bytes]] = []

    def make(self) -> None:
        self._tap()
        self._program("a tool that nobody waits for", [*SANDBOX, "sleep", "1000"])
        gone = self._vms / "gone"
        gone.mkdir()
        state = CopyState(
            name="gone", uid=UID, role=CopyRole.SECONDARY, stage=CopyStage.LOCKSTEP, epoch=7, macs=(MAC,)
        )  # fmt: skip
        (gone / "agent.json").write_text(state.to_json())
        (gone / ".agent.json.abcdefgh.tmp").write_text("{")
        (gone / "guest").mkdir()
        (gone / "guest" / "qmp.sock").touch()
        (gone / "guest" / "disk0.qcow2").write_bytes(b"x" * 4096)
        record = new_record("bwrap", UID, is_sandboxed=True)
        self._program("a copy of a VM that was deleted", [*SANDBOX, "sleep", "1000"], record.token)
        write_pidfile(gone / "qemu.pid", record)
        stale = self._vms / "stale"
        stale.mkdir()
        write_pidfile(stale / "qemu.pid", new_record("bwrap", "", is_sandboxed=True))
        (self._vms / "empty").mkdir()

    def still_there(self) -> list[str]:
        found = [str(path) for name in ("gone", "stale", "empty") if (path := self._vms / name).exists()]
        found += [
            f"process {one.pid}" for one in self._programs if one.poll() is None and read_process(one.pid)
        ]
        if kernel.in_namespace(self._namespace, self._tap_exists):
            found.append("the tap")
        return found

    def close(self) -> None:
        for token in self._tokens:
            kill_carriers(token)
        for program in self._programs:
            program.wait()

    def _program(self, token: str, argv: list[str], recorded: str = "") -> None:
        self._tokens.append(recorded or token)
        environment = {
            **os.environ, TOKEN_VARIABLE: self._tokens[-1], OWNER_VARIABLE: str(self._state_dir),
        }  # fmt: skip
        self._programs.append(subprocess.Popen(launch_argv(self._namespace, argv), env=environment))

    def _tap(self) -> None:
        def make() -> None:
            with netlink() as ip:
                ip.link("add", ifname="vdlost0", kind="tuntap", mode="tap")
                index = ip.link_lookup(ifname="vdlost0")[0]
                ip.link("set", index=index, IFLA_IFALIAS=str(PortTag("default", TAP_UID, MAC)))

        kernel.in_namespace(self._namespace, make)

    @staticmethod
    def _tap_exists() -> bool:
        with netlink() as ip:
            return bool(ip.link_lookup(ifname="vdlost0"))
