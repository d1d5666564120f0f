"""The agent's connection to QEMU breaks for good: guest and protection do not notice, the agent finds another way."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

from testlab import VM, Lab, wait_for


def break_monitor(lab: Lab, host: str, name: str) -> None:
    """By the second socket, the first one's connection is torn inside QEMU."""
    path = lab.plan.host(host).state_dir / "vms" / name / "guest" / "qmp2.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        file = sock.makefile("rw")
        assert "QMP" in json.loads(file.readline())
        broken = {"instances": [{"type": "chardev", "id": "compat_monitor0"}]}
        for command in ({"execute": "qmp_capabilities"}, {"execute": "yank", "arguments": broken}):
            file.write(json.dumps(command) + "\n")
            file.flush()
            while "event" in (answer := json.loads(file.readline())):
                pass
            assert "return" in answer, answer


def test_the_guest_lives_and_the_other_socket_is_used(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    before, first, second = vm.epoch, vm.primary, vm.secondary
    pids = {host: vm.qemu(host).pid for host in (first, second)}
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        count = vm.view().status.checkpoints.count
        break_monitor(lab, first, "web")
        workload.wait_progress(more=100, deadline_s=20)
        vm.wait("heard again", lambda view: view.status.checkpoints.count > count + 10, 30)
        assert vm.epoch == before, "nothing was decided because of it"
        assert {host: vm.qemu(host).pid for host in (first, second)} == pids

        lab.ok("unprotect", "web")  # for that the primary has to be spoken to
        view = vm.wait("alone", lambda view: view.status.secondary is None, 20)
        assert view.status.primary and view.status.primary.pid == pids[first]
        wait_for(lambda: not vm.runs_on(second), 20, "the secondary has ended")
        workload.wait_progress(more=30, deadline_s=20)
    assert not workload.report.errors
    workload.check_store()
