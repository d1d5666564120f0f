"""Snapshots of protected VMs: what is in them, what is made of them, and what is left of one that was cut off."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import pytest
from failpoints import Failpoints, failpoints, of
from testlab import VM, Lab, wait_for

from vdc.lab.sessions import check_store
from vdc.model.step import Step

CUT_OFF = of("snapshot", but=(Step.SNAPSHOT_DONE,))


@pytest.fixture(scope="module")
def points(session_lab: Lab) -> Iterator[Failpoints]:
    with failpoints(session_lab) as found:
        yield found


@pytest.fixture(autouse=True)
def no_snapshot_stays(lab: Lab) -> Iterator[None]:
    yield
    for one in snapshots(lab):
        lab.ok("snapshot", "rm", one["endophyte"], one["name"])


def snapshots(lab: Lab) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(lab.ok("snapshot", "ls", "-o", "json"))["items"]
    return found


def has_all(lab: Lab, vm: VM, last: int) -> None:
    """The guest's store has each number up to `last`, as it was written."""
    lab.wait_answering(vm.address)
    check_store(lab.in_client, vm.address, "w", 1, last)


def nothing_is_left(lab: Lab, name: str) -> bool:
    files = [path for host in lab.plan.hosts for path in (host.state_dir / "vms" / name).rglob("snap*.qcow2")]
    images = [entry for entry in json.loads(lab.ok("image", "ls", "-o", "json"))["items"]]
    named = [one for entry in images for one in entry["names"] if one.startswith("snapshots/")]
    return not files and not named and not snapshots(lab)


def test_a_new_vm_and_the_vm_itself_begin_with_what_was_acknowledged(
    lab: Lab, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    before = vm.epoch
    with lab.workload(vm, tag="w") as earlier:
        earlier.wait_progress(more=60, deadline_s=30)
    known = earlier.report.acknowledged
    with lab.workload(vm, tag="w", first=known + 1) as load:
        load.wait_progress(more=20, deadline_s=20)
        lab.ok("snapshot", "create", "web", "one")
        load.wait_progress(more=20, deadline_s=20)
    assert not load.report.errors
    load.check_store()
    vm.wait_lockstep()
    assert vm.epoch == before, "a snapshot is no fault"
    assert "snapshot-taken" in vm.event_codes()

    lab.ok("snapshot", "restore", "web", "one", "--as", "copy", "--wait")
    has_all(lab, VM(lab, "copy"), known)
    lab.ok("delete", "endophyte", "copy")

    address = vm.address
    uid = vm.view().metadata.uid
    refused = lab.cli("snapshot", "restore", "web", "one")
    assert refused.code == 2 and "confirm-missing" in refused.stderr
    lab.ok("snapshot", "restore", "web", "one", "--yes", "--wait")
    assert vm.view().status.addresses[0] == address and vm.view().metadata.uid != uid
    has_all(lab, vm, known)
    vm.wait_lockstep()


def test_an_agent_that_dies_on_the_way_leaves_nothing_and_the_guest_goes_on(
    lab: Lab, points: Failpoints, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    first, before = vm.primary, vm.epoch
    pid = vm.qemu(first).pid
    with lab.workload(vm) as load:
        load.wait_progress(more=20, deadline_s=20)
        for step in CUT_OFF:
            points.arm(first, step)
            assert lab.cli("snapshot", "create", "web", "one").code == 1
            points.wait_died_at(first, step)
            wait_for(lambda: nothing_is_left(lab, "web"), 60, f"nothing is left after {step}")
        points.arm(first, Step.SNAPSHOT_DONE)
        lab.cli("snapshot", "create", "web", "one")
        points.wait_died_at(first, Step.SNAPSHOT_DONE)
        wait_for(lambda: bool(snapshots(lab)), 20, "the agents answer")
        assert [one["state"] for one in snapshots(lab)] == ["ready"]
        load.wait_progress(more=20, deadline_s=30)
    assert not load.report.errors
    load.check_store()
    vm.wait_lockstep()
    assert (vm.primary, vm.epoch, vm.qemu(first).pid) == (first, before, pid)


@pytest.mark.parametrize("whose", ["primary", "secondary"])
def test_a_host_loses_its_copy_in_the_middle(
    lab: Lab, points: Failpoints, protected_vm: Callable[..., VM], whose: str
) -> None:
    vm = protected_vm("web")
    first = vm.primary
    done: list[int] = []
    with lab.workload(vm) as load:
        load.wait_progress(more=20, deadline_s=20)
        points.arm(first, Step.SNAPSHOT_FIXED, action="wait")
        asking = threading.Thread(
            target=lambda: done.append(lab.cli("snapshot", "create", "web", "one").code), name="asking"
        )
        asking.start()
        points.wait_standing_at(first, Step.SNAPSHOT_FIXED)
        vm.kill(vm.secondary if whose == "secondary" else first)
        load.wait_progress(more=20, deadline_s=30)
        points.release(first, Step.SNAPSHOT_FIXED)
        asking.join(60)
        assert not asking.is_alive()
        vm.wait_lockstep(90)
        load.wait_progress(more=20, deadline_s=30)
    assert not load.report.errors
    load.check_store()
    if whose == "primary":
        assert done == [1]
        wait_for(lambda: nothing_is_left(lab, "web"), 30, "nothing is left")


def uptime_s(vm: VM) -> float:
    """Of the guest's kernel, which nothing but its memory knows."""
    return float(vm.shell("cat /proc/uptime").split()[0])


def test_a_paused_vm_goes_on_where_its_memory_was_kept(
    lab: Lab, points: Failpoints, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    refused = lab.cli("snapshot", "create", "web", "one", "--memory")
    assert refused.code == 1 and "vdc pause web" in refused.stderr
    with lab.workload(vm, tag="w") as load:
        load.wait_progress(more=20, deadline_s=30)
    known = load.report.acknowledged
    vm.shell("echo kept > /tmp/note")  # in its memory alone
    kept_s = uptime_s(vm)
    lab.ok("pause", "web", "--wait")
    before = vm.wait("alone", lambda view: view.status.secondary is None, 30).status.primary
    assert before is not None
    for step in (Step.SNAPSHOT_BEGUN, Step.SAVE_SAVED, Step.SNAPSHOT_FIXED):
        points.arm(before.host, step)
        assert lab.cli("snapshot", "create", "web", "one", "--memory").code == 1
        points.wait_died_at(before.host, step)
        wait_for(lambda: nothing_is_left(lab, "web"), 60, f"nothing is left after {step}")
        if step is Step.SAVE_SAVED:  # QEMU saves once per pause
            lab.ok("start", "web", "--wait")
            assert vm.shell("cat /tmp/note") == "kept"
            lab.ok("pause", "web", "--wait")
            vm.wait("alone", lambda view: view.status.secondary is None, 30)
    lab.ok("start", "web", "--wait")
    lab.ok("pause", "web", "--wait")
    vm.wait("alone", lambda view: view.status.secondary is None, 30)
    lab.ok("snapshot", "create", "web", "one", "--memory")
    lab.ok("start", "web", "--wait")
    vm.shell("echo lost > /tmp/note")
    second = lab.cli("snapshot", "restore", "web", "one", "--as", "copy")
    assert second.code == 1 and "--no-memory" in second.stderr
    uid = vm.view().metadata.uid
    points.arm_everywhere(Step.LOAD_LOADED)  # it is loaded once more
    lab.ok("snapshot", "restore", "web", "one", "--yes", "--wait")
    assert vm.view().metadata.uid != uid
    assert vm.shell("cat /tmp/note") == "kept"
    assert uptime_s(vm) >= kept_s, "it has not booted"
    points.disarm()
    has_all(lab, vm, known)
    vm.wait_lockstep()

    lab.ok("stop", "web", "--wait")  # used up: from here on it boots from its disks
    lab.ok("start", "web", "--wait")
    assert "kept" not in vm.shell("cat /tmp/note 2>/dev/null; true")
    has_all(lab, vm, known)
    lab.ok("snapshot", "restore", "web", "one", "--as", "copy", "--no-memory", "--wait")
    has_all(lab, VM(lab, "copy"), known)
    lab.ok("delete", "endophyte", "copy")
