"""The host that lost its power comes back: empty, a spare like any other; its old disk is never booted."""

from __future__ import annotations

from collections.abc import Callable

from testlab import VM, Lab, wait_for


def test_it_comes_back_empty_and_is_used_again(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    first, second = vm.primary, vm.secondary
    folder = lab.plan.host(first).state_dir / "vms" / "web"
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        lab.fault("power-off", first)
        vm.wait_primary(second)
        vm.wait_lockstep()
        workload.wait_progress(more=30, deadline_s=20)
        assert folder.is_dir(), "the power-off was to leave a disk behind"

        lab.heal(first)
        wait_for(lambda: not folder.exists(), 30, f"the old files on {first} are removed")
        vm.wait("with a spare", lambda view: view.status.spares == (first,), 30)
        assert not vm.runs_on(first)
        wait_for(
            lambda: first not in vm.copy_on(second).unreachable, 20, f"{first} has been heard for a while"
        )

        third = vm.secondary
        vm.kill(second)
        vm.wait_primary(third)
        view = vm.wait_lockstep(90)
        copies = {view.status.primary and view.status.primary.host, *view.status.spares}
        assert third in copies
        if vm.secondary != first:  # the host of the killed copy was as good; lose it as well
            lost = vm.secondary
            lab.fault("power-off", lost)
            vm.wait("on the returned host", lambda view: _secondary(view) == first, 60)
            vm.wait_lockstep(60)
            lab.heal(lost)  # or two of three members of etcd would be gone
        lab.fault("power-off", third)
        vm.wait_primary(first)
        workload.wait_progress(more=50, deadline_s=30)
    assert not workload.report.errors
    workload.check_store()


def _secondary(view: object) -> str | None:
    secondary = view.status.secondary  # type: ignore[attr-defined]
    return secondary.host if secondary else None
