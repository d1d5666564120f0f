"""Protection ends in order and comes back: only what the guest wrote meanwhile is copied, and both disks are equal."""

from __future__ import annotations

from collections.abc import Callable

from testlab import VM, Lab, wait_for

MIB = 2**20


def entered(vm: VM) -> list[dict[str, float]]:
    """The figures of each copy to a secondary, oldest first."""
    return [event["figures"] for event in vm.lab.events(vm.name) if event["code"] == "lockstep-entered"]


def wait_heard(vm: VM, host: str) -> None:
    """On a busy machine two hosts may have missed each other a moment ago, and no copy goes there then."""
    wait_for(lambda: host not in vm.copy_on(vm.primary).unreachable, 20, f"{host} is heard steadily")


def test_a_secondary_that_left_in_order_is_brought_up_to_date(
    lab: Lab, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    second = vm.secondary
    vm.shell("head -c 8M /dev/urandom > /data/blob && sync")
    with lab.workload(vm) as workload:
        workload.wait_progress(more=30, deadline_s=20)
        lab.ok("unprotect", "web", "--wait")
        folder = lab.plan.host(second).state_dir / "vms" / "web"
        wait_for(lambda: not vm.runs_on(second), 10, "the secondary ends")
        wait_for(lambda: "older" in (folder / "copy.json").read_text(), 10, "its disks are kept")

        def left() -> set[str]:
            return {path.name for path in folder.rglob("*")} - {"journal.jsonl"}

        wait_for(
            lambda: left() == {"copy.json", "guest", "parent0.qcow2"},
            10,
            lambda: f"nothing else is kept: {left()}",
        )
        assert vm.view().status.unprotectedSince is None  # nobody wants it protected
        workload.wait_progress(more=50, deadline_s=20)
        wait_heard(vm, second)
        lab.ok("protect", "web", "--wait")
        workload.wait_progress(more=50, deadline_s=20)
    assert not workload.report.errors
    assert vm.secondary == second
    lab.ok("verify", "web")  # every block of both disks, every page of both memories
    full, short = entered(vm)[-2:]  # before them: of VMs of that name in other tests
    assert (full["resumed"], short["resumed"]) == (0, 1)
    assert short["disk_bytes"] < 4 * MIB
    before = vm.shell("md5sum /data/blob")
    vm.kill(vm.primary)
    vm.wait_primary(second)
    vm.shell("echo 3 > /proc/sys/vm/drop_caches")
    assert vm.shell("md5sum /data/blob") == before
    workload.check_store()


def test_a_restarted_vm_brings_its_secondary_up_to_date(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    first, second = vm.primary, vm.secondary
    pid = vm.qemu(first).pid
    vm.shell("head -c 8M /dev/urandom > /data/blob && sync")
    before = vm.shell("md5sum /data/blob")
    wait_heard(vm, second)
    lab.ok("restart", "web")
    wait_for(lambda: {one.pid for one in lab.qemus(first)} - {pid}, 40, "another QEMU")
    lab.wait_answering(vm.address)
    vm.wait_lockstep(60)
    assert vm.secondary == second
    lab.ok("verify", "web")  # every block of both disks, every page of both memories
    last = entered(vm)[-1]
    assert last["resumed"] == 1
    assert last["disk_bytes"] < 4 * MIB
    vm.kill(first)
    vm.wait_primary(second)
    vm.shell("echo 3 > /proc/sys/vm/drop_caches")
    assert vm.shell("md5sum /data/blob") == before
