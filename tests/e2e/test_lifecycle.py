"""The life of a VM by the command line: created, stopped, started, frozen, restarted, watched, deleted."""

from __future__ import annotations

import json
from collections.abc import Callable

from testlab import VM, Lab


def test_a_name_is_taken_once(lab: Lab) -> None:
    assert lab.ok("create", "web", "--no-protect") == "endophyte/web created\n"
    vm = VM(lab, "web")
    vm.wait("running", lambda view: view.status.phase.value == "Running", 20)
    again = lab.cli("create", "web", "--no-protect")
    assert again.code == 1
    assert again.error_line.endswith("(name-taken)")
    assert again.hint
    assert lab.vm_names() == ("web",)


def test_what_was_stored_is_there_after_stop_and_start(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    with lab.workload(vm, "durable") as workload:
        workload.wait_progress(more=30, deadline_s=20)
    lab.ok("stop", "web", "--wait", "--timeout", "60")
    view = vm.view()
    assert (view.status.phase.value, view.status.protection.value) == ("Stopped", "none")
    assert not any(vm.runs_on(host) for host in lab.hosts)
    lab.ok("start", "web", "--wait", "--timeout", "60")
    lab.wait_answering(vm.address)
    workload.check_store()
    vm.wait_lockstep()


def test_a_stop_by_force_keeps_the_disk(lab: Lab) -> None:
    vm = lab.create("web", "--no-protect")
    lab.wait_answering(vm.address)
    with lab.workload(vm, "durable") as workload:
        workload.wait_progress(more=30, deadline_s=20)
    lab.ok("stop", "web", "--force", "--wait", "--timeout", "30")
    lab.ok("start", "web", "--wait", "--timeout", "60")
    lab.wait_answering(vm.address)
    workload.check_store()


def test_a_frozen_guest_goes_on_where_it_was(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    with lab.workload(vm, "echo", "durable") as workload:
        lab.ok("pause", "web", "--wait", "--timeout", "30")
        assert vm.view().status.phase.value == "Paused"
        lab.ok("start", "web", "--wait", "--timeout", "30")
        workload.wait_progress(more=30, deadline_s=30)
    assert not workload.report.errors
    vm.wait_lockstep()
    workload.check_store()


def test_a_restart_boots_the_guest_again_and_protects_it_again(
    lab: Lab, protected_vm: Callable[..., VM]
) -> None:
    vm = protected_vm("web")
    pid = vm.qemu(vm.primary).pid
    lab.ok("restart", "web")
    vm.wait(
        "restarted", lambda view: (view.status.primary and view.status.primary.pid) not in (None, pid), 60
    )
    vm.wait_lockstep(90)
    lab.wait_answering(vm.address)
    assert float(vm.shell("cut -d' ' -f1 /proc/uptime")) < 60


def test_a_guest_that_powers_itself_off_stays_off(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    lab.cli("console", "web", stdin="\npoweroff\n")  # which ends under the command
    vm.wait("stopped", lambda view: view.status.phase.value == "Stopped", 40)
    assert not any(vm.runs_on(host) for host in lab.hosts)
    lab.ok("start", "web", "--wait", "--timeout", "60")
    lab.wait_answering(vm.address)


def test_protection_is_switched_off_and_on_under_a_session(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    first = vm.primary
    with lab.workload(vm) as workload:
        lab.ok("unprotect", "web", "--wait", "--timeout", "30")
        view = vm.view()
        assert (view.status.protection.value, view.status.secondary) == ("none", None)
        workload.wait_progress(more=30, deadline_s=20)
        lab.ok("protect", "web", "--wait", "--timeout", "60")
        workload.wait_progress(more=30, deadline_s=20)
    assert vm.primary == first
    assert not workload.report.errors
    workload.check_store()


def test_logs_console_events_and_description(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    vm = protected_vm("web")
    assert "mini: ready" in lab.ok("logs", "web")
    assert vm.shell("echo $((6 * 7))") == "42"
    codes = vm.event_codes()
    for earlier, later in (
        ("placed", "started"),
        ("started", "lockstep-entered"),
        ("lockstep-entered", "lockstep"),
    ):
        assert codes.index(earlier) < codes.index(later)
    described = lab.ok("describe", "endophyte", "web")
    assert "in lockstep with" in described
    assert vm.address in described
    nodes = json.loads(lab.ok("get", "nodes", "-o", "json"))["items"]
    assert [node["host"]["name"] for node in nodes] == list(lab.hosts)


def test_delete_leaves_nothing_and_frees_the_name(lab: Lab, protected_vm: Callable[..., VM]) -> None:
    first = protected_vm("web")
    uid = first.view().metadata.uid
    assert lab.ok("delete", "endophyte", "web") == "endophyte/web deleted\n"
    assert lab.cli("get", "endophyte", "web").error_line.endswith("(endophyte-not-found)")
    lab.assert_clean("after the deletion")
    again = protected_vm("web")
    assert again.view().metadata.uid != uid
    assert again.address == first.address
