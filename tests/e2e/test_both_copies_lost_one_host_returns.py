"""Both hosts of a VM lose their power at once and only the replica's comes back: nothing is started by itself, since
the other one's disk may be newer; a human who knows that it is gone starts the VM from the replica's disk."""

from __future__ import annotations

import signal
from collections.abc import Callable

from testlab import VM, Lab, wait_for

from vdc.lab.processes import signal_all


def test_a_human_starts_it_from_the_disk_that_is_left(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    first, second, before = vm.primary, vm.secondary, vm.epoch
    with lab.workload(vm, "durable") as workload:
        workload.wait_progress(more=30, deadline_s=20)
    signal_all([lab.agent(second)], signal.SIGSTOP)  # it must not take over in between
    lab.fault("power-off", first)
    lab.fault("power-off", second)
    lab.heal(second)
    wait_for(lambda: lab.ask(lambda api: api.cluster()).majority, 30, "a majority")
    vm.wait("unknown", lambda view: view.status.phase.value == "Unknown", 20)
    assert vm.epoch == before and not vm.runs_on(second)

    wait_for(
        lambda: lab.cli("promote", "replica", "web", "--force", "--confirm", "web").code == 0,
        20, "forced",
    )  # fmt: skip
    assert vm.wait_primary(second, 60).status.epoch > before
    lab.wait_answering(vm.address)
    assert "forced-promotion" in vm.event_codes()
    workload.check_store()
    lab.heal(first)
    vm.wait_lockstep(90)
    assert vm.primary == second
